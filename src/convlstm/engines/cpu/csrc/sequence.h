// Whole sequences of small layers: the forward pass is one call, and so is the backward pass, each of one thread.
//
// The time of a small layer is that of calling its operators. Convolutions are direct ones with kernels of odd size and
// zeros beyond the border; frames come and go channels-first, everything between is channels-last.

#pragma once

#include "matmul.h"
#include "transpose.h"

namespace {

// B sequences of T frames of `inputs` channels, and a recurrence of C channels. `separate`: the pre-activations of the
// frame and of h are not only added. The parameter has values for Q pixels. `zero_state`: the state before is zero.
struct SequenceShape {
    int64_t B, T, H, W, inputs, C, KH, KW, gates, saved_gates, separate, Q, reverse, zero_state;

    int64_t area() const { return H * W; }
    int64_t pixels() const { return B * area(); }
    int64_t outputs() const { return gates * C; }
    int64_t frame(int64_t done) const { return reverse ? T - 1 - done : done; }
};

// Memory of this thread, taken piece by piece; without memory it counts the elements.
struct Memory {
    float* start;
    int64_t taken = 0;

    float* take(int64_t elements) {
        float* piece = start ? start + taken : nullptr;
        taken += ceil_div(elements + LANES, LANES) * LANES;  // whole vectors are read at the end
        return piece;
    }
};

// For each pixel of a frame (H, W, K) the K channels of the KW pixels under a row of the kernel, zeros beyond the frame:
// (H + KH - 1, W, KW, K), with the rows above and below that a kernel reaches. For each row of the kernel its pixels
// are one matrix, (H W, KW K).
struct UnfoldedFrame {
    int64_t H, W, K, KH, KW;
    float* data;

    UnfoldedFrame(const SequenceShape& s, int64_t K, Memory& memory)
        : H(s.H), W(s.W), K(K), KH(s.KH), KW(s.KW), data(memory.take(size())) {
        if (data) std::memset(data, 0, size() * sizeof(float));
    }

    int64_t columns() const { return KW * K; }
    int64_t size() const { return (H + KH - 1) * W * columns(); }
    const float* matrix(int64_t kernel_row) const { return data + kernel_row * W * columns(); }

    void read(const float* frame) const {
        for (int64_t i = 0; i < H; i++)
            for (int64_t j = 0; j < W; j++) {
                const int64_t first = max_of(0, KW / 2 - j), last = min_of(KW, W + KW / 2 - j);
                float* to = data + ((i + KH / 2) * W + j) * columns() + first * K;
                std::memcpy(to, frame + (i * W + j + first - KW / 2) * K, (last - first) * K * sizeof(float));
            }
    }
};

// The weight of a convolution, or its gradient, as (KH, KW, inputs, outputs rounded up to vectors).
struct Taps {
    int64_t KH, KW, inputs, outputs;
    float* data;

    Taps(const SequenceShape& s, int64_t inputs, int64_t outputs, Memory& memory)
        : KH(s.KH), KW(s.KW), inputs(inputs), outputs(outputs), data(memory.take(size())) {
        if (data) std::memset(data, 0, size() * sizeof(float));
    }

    int64_t width() const { return ceil_div(outputs, LANES) * LANES; }
    int64_t size() const { return KH * KW * inputs * width(); }
    float* row(int64_t i) const { return data + i * KW * inputs * width(); }

    // From part of a weight (outputs, `columns` inputs in all, KH, KW).
    void pack(const float* weight, int64_t columns) const {
        const int64_t taps = KH * KW;
        for_each_square(outputs, inputs * taps, [=, this](int64_t o, auto rows, int64_t c, auto count) {
            vfloat square[LANES] = {};
            for (int64_t r = 0; r < rows; r++) square[r] = load(weight + (o + r) * columns * taps + c, count);
            transpose_square(square);
            for (int64_t n = 0; n < count; n++) store(place(c + n) + o, square[n], AllLanes());
        });
    }

    // The inverse, of a gradient.
    void unpack(float* weight, int64_t columns) const {
        const int64_t taps = KH * KW;
        for_each_square(outputs, inputs * taps, [=, this](int64_t o, auto rows, int64_t c, auto count) {
            vfloat square[LANES] = {};
            for (int64_t n = 0; n < count; n++) square[n] = load(place(c + n) + o, AllLanes());
            transpose_square(square);
            for (int64_t r = 0; r < rows; r++) store(weight + (o + r) * columns * taps + c, square[r], count);
        });
    }

    // Of the convolution that gives the gradient of the input, from the same part of a weight.
    void pack_flipped(const float* weight, int64_t columns) const {
        const int64_t taps = KH * KW;
        for (int64_t k = 0; k < inputs; k++)
            for_each_square(outputs, taps, [=, this](int64_t o, auto rows, int64_t tap, auto count) {
                vfloat square[LANES] = {};
                const float* from = weight + (k * columns + o) * taps + tap;
                for (int64_t r = 0; r < rows; r++) square[r] = load(from + r * taps, count);
                transpose_square(square);
                for (int64_t n = 0; n < count; n++)
                    store(data + ((taps - 1 - tap - n) * inputs + k) * width() + o, square[n], AllLanes());
            });
    }

    // The convolution of a frame, (H W, `width`), written to `out` or added to it.
    void convolve(const UnfoldedFrame& x, float* out, bool add) const {
        for_each_block([&](int64_t first, Multiply multiply) {
            for (int64_t i = 0; i < KH; i++) {
                const Factors f{x.matrix(i), x.columns(), 1, row(i) + first, width(), x.columns()};
                multiply(f, none(f), x.H * x.W, out + first, width(), add || i);
            }
        });
    }

    // As a gradient: add that from a frame and the gradient `d` of its convolution, (H W, `width`).
    void add_gradient(const UnfoldedFrame& x, const float* d) const {
        for_each_block([&](int64_t first, Multiply multiply) {
            for (int64_t i = 0; i < KH; i++) {
                const Factors f{x.matrix(i), 1, x.columns(), d + first, width(), x.H * x.W};
                multiply(f, none(f), x.columns(), row(i) + first, width(), true);
            }
        });
    }

  private:
    // Outputs of an input and a tap, which a weight has at c = input KH KW + tap.
    float* place(int64_t c) const { return data + (c % (KH * KW) * inputs + c / (KH * KW)) * width(); }

    // body(first row, rows, first column, columns) for squares of a matrix, those at its end not whole.
    template <class Body>
    static void for_each_square(int64_t R, int64_t K, Body body) {
        for_each_vector(R, [=](int64_t r, auto rows) {
            for_each_vector(K, [=](int64_t k, auto columns) { body(r, rows, k, columns); });
        });
    }

    template <class Body>
    void for_each_block(Body body) const {  // body(first column, product for its columns)
        for (int64_t first = 0; first < width(); first += COLUMNS)
            body(first, multiply_of(min_of(VECTORS, (width() - first) / LANES)));
    }

    static Factors none(Factors f) { return {f.a, f.stride, f.step, f.b, f.b_stride, 0}; }
};

// Pixels of C channels between rows of two lengths, with a bias added unless it is null.
inline void copy_pixels(const float* from, int64_t from_length, float* to, int64_t to_length, int64_t pixels, int64_t C,
                        const float* bias = nullptr) {
    for (int64_t p = 0; p < pixels; p++)
        for_each_vector(C, [=](int64_t k, auto n) {
            const vfloat x = load(from + p * from_length + k, n);
            store(to + p * to_length + k, bias ? x + load(bias + k, n) : x, n);
        });
}

// All frames of a batch between channels-last (B, area, C) and channels-first with a stride in elements.
inline void from_channels_first(const SequenceShape& s, const float* x, int64_t stride, float* y) {
    transpose(x, y, s.B, s.C, s.area(), stride, s.C * s.area(), 1);
}

inline void to_channels_first(const SequenceShape& s, const float* x, float* y, int64_t stride) {
    transpose(x, y, s.B, s.area(), s.C, s.C * s.area(), stride, 1);
}

typedef void (*ForwardKernel)(const float*, const float*, float*, float*, float*, const float*, int64_t, int64_t,
                              int64_t, int);
typedef void (*BackwardKernel)(float*, float*, const float*, const float*, float*, float*, float*, const float*,
                               int64_t, int64_t, int64_t, int);

// Tensors of a forward pass. States are (B, C, H, W); those of the hidden state null if the state is the cell state.
struct ForwardTensors {
    const float *x, *weight, *bias, *parameter, *first_h, *first_cell_state;
    float *outputs, *last_h, *last_cell_state;  // outputs (B, T, C, H, W), or null
    float *h, *cell_states, *saved;  // (T + 1, pixels, C); before each step, and saved by it, both null or not
};

struct ForwardPass {
    const SequenceShape& s;
    Memory memory;
    Taps of_x, of_h;
    UnfoldedFrame x, h;
    float *frame, *sum, *a, *b, *cell_state;

    ForwardPass(const SequenceShape& s, float* start)
        : s(s), memory{start}, of_x(s, s.inputs, s.outputs(), memory), of_h(s, s.C, s.outputs(), memory),
          x(s, s.inputs, memory), h(s, s.C, memory), frame(memory.take(s.area() * s.inputs)),
          sum(memory.take(s.area() * of_x.width())), a(memory.take(s.pixels() * s.outputs())),
          b(s.separate ? memory.take(s.pixels() * s.outputs()) : a), cell_state(memory.take(s.pixels() * s.C)) {}

    void run(const ForwardTensors& t, ForwardKernel kernel) {
        const int64_t columns = s.inputs + s.C, size = s.pixels() * s.C, stride = s.C * s.area();
        of_x.pack(t.weight, columns);
        of_h.pack(t.weight + s.inputs * s.KH * s.KW, columns);
        from_channels_first(s, t.first_cell_state, stride, cell_state);
        from_channels_first(s, t.first_h, stride, t.h + (s.reverse ? s.T * size : 0));
        for (int64_t done = 0; done < s.T; done++) {
            const int64_t n = s.frame(done);
            float *before = t.h + (n + s.reverse) * size, *after = t.h + (n + !s.reverse) * size;
            if (t.cell_states) std::memcpy(t.cell_states + n * size, cell_state, size * sizeof(float));
            for (int64_t sample = 0; sample < s.B; sample++)
                convolve(sample, t.x + (sample * s.T + n) * s.inputs * s.area(),
                         done || !s.zero_state ? before + sample * stride : nullptr, t.bias);
            float* saved = t.saved ? t.saved + n * s.pixels() * s.saved_gates * s.C : nullptr;
            kernel(a, b, cell_state, after, saved, t.parameter, s.pixels(), s.Q, s.C, 1);
            if (t.outputs) to_channels_first(s, after, t.outputs + n * stride, s.T * stride);
            if (done == s.T - 1 && t.last_h) to_channels_first(s, after, t.last_h, stride);
        }
        to_channels_first(s, cell_state, t.last_cell_state, stride);
    }

    // The pre-activations of a sample; without `before` h is zero.
    void convolve(int64_t sample, const float* channels_first, const float* before, const float* bias) const {
        const int64_t N = s.outputs(), first = sample * s.area() * N;
        transpose(channels_first, frame, 1, s.inputs, s.area(), 0, 0, 1);
        x.read(frame);
        of_x.convolve(x, sum, false);
        if (before) h.read(before);
        if (before && !s.separate) of_h.convolve(h, sum, true);
        copy_pixels(sum, of_x.width(), a + first, N, s.area(), N, bias);
        if (!s.separate) return;
        if (before) {
            of_h.convolve(h, sum, false);
            copy_pixels(sum, of_h.width(), b + first, N, s.area(), N);
        } else {
            std::memset(b + first, 0, s.area() * N * sizeof(float));
        }
    }
};

// Tensors of a backward pass: those of the forward pass; gradients of its results, null for zero; and those of its
// inputs, null if they are not needed. The gradient of h is added to that of the cell state if only that is given.
struct BackwardTensors {
    const float *x, *weight, *parameter, *h;
    float *cell_states, *saved;
    const float *d_outputs, *d_last_h, *d_last_cell_state;
    float *d_x, *d_weight, *d_bias, *d_h, *d_cell_state;
    float *d_a, *d_b;  // of the pre-activations, (T, pixels, gates C); d_b null if they are only added
};

struct BackwardPass {
    const SequenceShape& s;
    Memory memory;
    Taps flipped_x, flipped_h, d_of_x, d_of_h;
    UnfoldedFrame x, h, d;
    float *frame, *sum, *d_padded, *d_h, *d_cell_state, *d_output;

    BackwardPass(const SequenceShape& s, float* start)
        : s(s), memory{start}, flipped_x(s, s.outputs(), s.inputs, memory), flipped_h(s, s.outputs(), s.C, memory),
          d_of_x(s, s.inputs, s.outputs(), memory), d_of_h(s, s.C, s.outputs(), memory), x(s, s.inputs, memory),
          h(s, s.C, memory), d(s, s.outputs(), memory), frame(memory.take(s.area() * s.inputs)),
          sum(memory.take(s.area() * max_of(flipped_x.width(), flipped_h.width()))),
          d_padded(memory.take(s.area() * d_of_x.width())), d_h(memory.take(s.pixels() * s.C)),
          d_cell_state(memory.take(s.pixels() * s.C)), d_output(memory.take(s.pixels() * s.C)) {}

    void run(const BackwardTensors& t, BackwardKernel kernel) {
        const int64_t columns = s.inputs + s.C, size = s.pixels() * s.C, stride = s.C * s.area();
        const int64_t all = s.pixels() * s.outputs(), taps = s.KH * s.KW;
        if (t.d_x) flipped_x.pack_flipped(t.weight, columns);
        flipped_h.pack_flipped(t.weight + s.inputs * taps, columns);
        read_gradient(t.d_last_h, stride, d_h);
        read_gradient(t.d_last_cell_state, stride, d_cell_state);
        for (int64_t done = s.T - 1; done >= 0; done--) {
            const int64_t n = s.frame(done);
            float *d_a = t.d_a + n * all, *d_b = s.separate ? t.d_b + n * all : d_a;
            read_gradient(t.d_outputs ? t.d_outputs + n * stride : nullptr, s.T * stride, d_output);
            kernel(t.saved + n * s.pixels() * s.saved_gates * s.C, t.cell_states + n * size, d_output, d_h,
                   d_cell_state, d_a, d_b, t.parameter, s.pixels(), s.Q, s.C, 1);
            for (int64_t sample = 0; sample < s.B; sample++) {
                const float* before = t.h + (n + s.reverse) * size + sample * stride;
                const int64_t in = (sample * s.T + n) * s.inputs * s.area(), first = sample * s.area();
                read_gradient_of_sum(d_b + first * s.outputs(), done || t.d_cell_state || (t.d_x && !s.separate));
                if (done || t.d_cell_state) input_gradient(flipped_h, d_h + first * s.C);
                if (t.d_weight && (done || !s.zero_state)) {
                    h.read(before);
                    d_of_h.add_gradient(h, d_padded);
                }
                if (s.separate) read_gradient_of_sum(d_a + first * s.outputs(), t.d_x);
                if (t.d_weight) {
                    transpose(t.x + in, frame, 1, s.inputs, s.area(), 0, 0, 1);
                    x.read(frame);
                    d_of_x.add_gradient(x, d_padded);
                }
                if (t.d_x) {
                    input_gradient(flipped_x, frame);
                    transpose(frame, t.d_x + in, 1, s.area(), s.inputs, 0, 0, 1);
                }
            }
        }
        if (t.d_weight) {
            d_of_x.unpack(t.d_weight, columns);
            d_of_h.unpack(t.d_weight + s.inputs * taps, columns);
        }
        if (t.d_bias) sum_pixels(t.d_a, s.T * s.pixels(), t.d_bias);
        if (t.d_h) to_channels_first(s, d_h, t.d_h, stride);
        if (t.d_cell_state && !t.d_h)
            for (int64_t k = 0; k < size; k++) d_cell_state[k] += d_h[k];
        if (t.d_cell_state) to_channels_first(s, d_cell_state, t.d_cell_state, stride);
    }

    void read_gradient(const float* frames, int64_t stride, float* to) const {
        if (frames)
            from_channels_first(s, frames, stride, to);
        else
            std::memset(to, 0, s.pixels() * s.C * sizeof(float));
    }

    // The gradient of a sample's pre-activations, for gradients of the weight and, unfolded, of the input.
    void read_gradient_of_sum(const float* from, bool unfold) const {
        copy_pixels(from, s.outputs(), d_padded, d_of_x.width(), s.area(), s.outputs());
        if (unfold) d.read(from);
    }

    // The gradient of a sample's frame, (area, channels), from that of its convolution in `d`.
    void input_gradient(const Taps& flipped, float* to) const {
        flipped.convolve(d, sum, false);
        copy_pixels(sum, flipped.width(), to, flipped.outputs, s.area(), flipped.outputs);
    }

    void sum_pixels(const float* from, int64_t pixels, float* to) const {
        std::memset(to, 0, s.outputs() * sizeof(float));
        for (int64_t p = 0; p < pixels; p++)
            for_each_vector(s.outputs(), [&](int64_t k, auto n) {
                store(to + k, load(to + k, n) + load(from + p * s.outputs() + k, n), n);
            });
    }
};

// A pass in the memory of this thread, of which a first one without memory counts the elements.
template <class Pass, class Tensors, class Kernel>
void run_pass(const SequenceShape& shape, const Tensors& tensors, Kernel kernel) {
    const int64_t elements = Pass(shape, nullptr).memory.taken;
    Pass(shape, scratch<float>(elements)).run(tensors, kernel);
}

}  // namespace
