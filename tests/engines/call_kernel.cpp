// Runs one kernel, for processors that this one can emulate.
//
// Arguments: the kernel's name, its integers, and for each pointer the number of bytes, "-" for a null pointer.
// The bytes of all pointers are read from standard input and written to standard output, then the kernel's result in
// eight bytes.

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "kernels.cpp"

struct Arguments {
    std::vector<int64_t> numbers;
    std::vector<void*> pointers;
    size_t number = 0, pointer = 0;
    int64_t result = 0;

    template <class T>
    T take() {
        if constexpr (std::is_pointer_v<T>)
            return static_cast<T>(pointers.at(pointer++));
        else
            return static_cast<T>(numbers.at(number++));
    }
};

template <class Result, class... Types>
std::function<void(Arguments&)> called(Result (*kernel)(Types...)) {
    return [=](Arguments& a) {
        const std::tuple<Types...> taken{a.take<Types>()...};
        if constexpr (std::is_void_v<Result>)
            std::apply(kernel, taken);
        else
            a.result = std::apply(kernel, taken);
    };
}

#define ENTRY(NAME) {#NAME, called(NAME)}
#define ENTRIES_OF(RECURRENCE, T) \
    ENTRY(RECURRENCE##_forward_##T), ENTRY(RECURRENCE##_recompute_##T), ENTRY(RECURRENCE##_backward_##T)
#define ENTRIES(T)                                                       \
    ENTRIES_OF(lstm, T), ENTRIES_OF(gru, T), ENTRIES_OF(rnn, T),         \
        ENTRY(transpose_##T##_float32), ENTRY(transpose_##T##_bfloat16)
#define SEQUENCES(RECURRENCE) ENTRY(RECURRENCE##_sequence), ENTRY(RECURRENCE##_sequence_backward)

int main(int count, char** texts) {
    // Those that are overloaded by a function of C++ need a type.
    void (*convolve)(const float*, const float*, const float*, float*, const int32_t*, const int32_t*,
                     const FrameShape*, const WinogradShape*, int, int) = winograd_convolve;
    void (*weight_gradient)(const float*, const float*, float*, float*, const int32_t*, const int32_t*,
                            const FrameShape*, const WinogradShape*, int64_t, int) = winograd_weight_gradient;
    const std::map<std::string, std::function<void(Arguments&)>> kernels{
        ENTRIES(float32), ENTRIES(bfloat16), ENTRY(winograd_packed_size), ENTRY(winograd_pack),
        ENTRY(winograd_gradient_size), ENTRY(lstm_winograd_step), ENTRY(gru_winograd_step),
        SEQUENCES(lstm), SEQUENCES(gru), SEQUENCES(rnn),
        {"winograd_convolve", called(convolve)}, {"winograd_weight_gradient", called(weight_gradient)}};
    Arguments arguments;
    std::vector<std::vector<char>> buffers;
    int n = 2;
    for (const int end = n + 1 + std::atoi(texts[n]); ++n < end;) arguments.numbers.push_back(std::atol(texts[n]));
    for (; n < count; n++) buffers.emplace_back(std::atol(texts[n]));  // of no bytes for "-"
    for (auto& buffer : buffers) {
        if (!buffer.empty() && std::fread(buffer.data(), 1, buffer.size(), stdin) != buffer.size()) return 2;
        arguments.pointers.push_back(buffer.empty() ? nullptr : buffer.data());
    }
    kernels.at(texts[1])(arguments);
    for (auto& buffer : buffers) std::fwrite(buffer.data(), 1, buffer.size(), stdout);
    std::fwrite(&arguments.result, 1, sizeof(arguments.result), stdout);
    return arguments.number != arguments.numbers.size() || arguments.pointer != arguments.pointers.size();
}
