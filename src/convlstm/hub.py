"""Saving and loading of modules: model folders without pickled code, on disk and on the Hugging Face hub."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from convlstm.atomic_write import write_together, writing
from convlstm.errors import OptionError, RunError, first_line, reading
from convlstm.hyperparameters import StoresHyperparameters, path_of, resolve
from convlstm.model_card import check_card, model_card
from convlstm.model_folder import (
    CARD,
    CONFIG,
    RESERVED,
    RUN_CONFIG,
    RUN_MODEL,
    SCHEMA,
    WEIGHTS,
    check_file,
    check_plain,
    load_config,
    separate,
    size_limit,
)
from convlstm.trust import Trust, packages, packages_in
from convlstm.validation import check_bool, check_instance, check_path, received


class Pretrained(StoresHyperparameters, nn.Module):
    """A module that is saved to a model folder or the Hugging Face hub, and loaded from there.

    The constructor's arguments are stored as plain data, from which `from_pretrained` builds it again.
    """

    _convlstm_notes: dict[str, Any]

    @classmethod
    def rebuild(cls, hyperparameters: Mapping[str, Any], *, trust: str | Sequence[str] = ()) -> Self:
        """Build the module from its `hyperparameters`, with fresh weights.

        Args:
            hyperparameters: as the property of that name gives them.
            trust: packages whose classes may be loaded, as for `from_pretrained`.
        """
        check_instance(hyperparameters, Mapping, "hyperparameters", "pass those of a model")
        if other := [name for name in hyperparameters if not isinstance(name, str)]:
            raise OptionError(
                f"hyperparameters must have names that are text; received {received(other[0])}: pass those "
                "of a model"
            )
        return cls(**_resolved(hyperparameters, Trust(packages(trust), module=cls.__module__)))

    def save_pretrained(
        self, folder: str | Path, *, card: bool | Mapping[str, Any] = False, **notes: Any
    ) -> Path:
        """Write ``config.json`` and ``model.safetensors``, and the model card ``README.md`` on request.

        Each file is written beside its final place and moved there, so that no reader and no crash ever sees
        half of one. An existing model in the folder is replaced, an existing card is not.

        Args:
            folder: made if missing.
            card: True to write a model card if the folder has none; its fields to write it with these: any of
                ``license``, ``data`` (what the model was trained on) and ``scores`` (text, or a number by
                name).
            notes: plain data stored in the configuration beside the architecture (what the model was trained
                on, its scale), returned by `read_config`. Those that the model was loaded with stay unless
                they are given anew.

        Returns:
            The folder.

        Raises:
            RunError: an argument or a note that is not plain data; a module that was changed since it was
                built (parametrized, pruned, its parts replaced), so that its arguments give another one; the
                fields of a card for a folder that has one. Nothing has been written then.
        """
        folder, fields = check_path(folder, "folder"), check_card(card)
        text, weights = self.check_saved(**notes)
        content = {folder / WEIGHTS: save(weights, metadata={"format": "pt"})}
        if card is not False:
            if not (folder / CARD).exists():
                content[folder / CARD] = model_card(self, text, folder.name, fields).encode()
            elif fields:
                raise _card_exists(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        # The configuration last: a folder without one is no model yet.
        write_together(content | {folder / CONFIG: text.encode()})
        return folder

    def push_to_hub(
        self,
        repo: str,
        *,
        token: str | bool | None = None,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a model of convlstm",
        card: bool | Mapping[str, Any] = True,
        **notes: Any,
    ) -> str:
        """Upload the model folder to a repository of the Hugging Face hub, in one commit.

        Args:
            repo: ``owner/name``; made if missing.
            token: of the hub; the one stored by ``hf auth login`` if None, none at all if False.
            private: True for a new repository that others cannot read.
            revision: branch that receives the commit, made if missing; the main branch if None.
            commit_message: first line of the commit.
            card: as for `save_pretrained`; a card that the repository has stays.
            notes: as for `save_pretrained`.

        Returns:
            Address of the commit.

        Raises:
            RunError: as `save_pretrained`, before the hub is called; a repository that cannot be written.
        """
        fields = check_card(card)
        _check_access(revision, token)
        for name, value in {"repo": repo, "commit_message": commit_message}.items():
            if not (isinstance(value, str) and value.strip()):
                raise OptionError(f"{name} must be text; received {received(value)}: give a string")
        private = None if private is None else check_bool(private, "private")
        with tempfile.TemporaryDirectory() as scratch, _uploading(repo):
            folder = self.save_pretrained(scratch, **notes)
            from huggingface_hub import HfApi

            api = HfApi(token=token, library_name="convlstm")
            repo = api.create_repo(repo, private=private, exist_ok=True).repo_id
            if revision is not None:
                api.create_branch(repo, branch=revision, exist_ok=True)
            if card is not False:
                if not api.file_exists(repo, CARD, revision=revision):
                    text = (folder / CONFIG).read_text(encoding="utf-8")
                    (folder / CARD).write_text(model_card(self, text, repo, fields), encoding="utf-8")
                elif fields:
                    raise _card_exists(repo)
            commit = api.upload_folder(
                repo_id=repo, folder_path=folder, commit_message=commit_message, revision=revision
            )
        return str(commit.commit_url)

    def check_saved(self, **notes: Any) -> tuple[str, dict[str, Tensor]]:
        """Check that `save_pretrained` can write the module, and return what it writes.

        Raises:
            RunError: as `save_pretrained`.
        """
        described: dict[str, Any] = {
            "schema": SCHEMA,
            "class": path_of(type(self)),
            "hyperparameters": self.hyperparameters,
        }
        notes = getattr(self, "_convlstm_notes", {}) | notes
        if taken := described.keys() & notes.keys():
            raise RunError(
                f"notes must leave {', '.join(described)} to the model; received {', '.join(sorted(taken))}: "
                "give them other names"
            )
        for name, value in (described["hyperparameters"] | notes).items():
            check_plain(name, value)
        text = json.dumps(described | notes, indent=2) + "\n"
        weights = separate(self.state_dict())
        self._check_rebuilt(json.loads(text), weights)
        return text, weights

    def _check_rebuilt(self, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Check that the weights fit what a configuration builds."""
        name, hyperparameters = type(self).__name__, config["hyperparameters"]
        known = Trust(tuple(packages_in(config)))  # all of it is in this module already
        kind = known.find(config["class"], Pretrained, functions=False)
        arguments = _resolved(hyperparameters, known)
        try:
            with torch.random.fork_rng(devices=[]):
                again = kind.rebuild(arguments)
                parts, built_parts = _parts(self), _parts(again)
                if parts != built_parts:  # a number of another type may show as another text
                    built_parts = _parts(kind(**self._convlstm_arguments))
        except Exception as error:
            raise RunError(
                f"a model that is saved must be built again from its arguments; {name} with "
                f"{', '.join(hyperparameters)} gave '{error}': let its constructor take each of these by name"
            ) from error
        built = again.state_dict()
        other = sorted(built.keys() ^ weights.keys())
        other += [key for key in built if not other and built[key].shape != weights[key].shape]
        other += sorted(part for part in parts if not other and parts[part] != built_parts.get(part))
        if other:
            raise RunError(
                f"a model that is saved must have the parts that its arguments build; {name} has another "
                f"{other[0]}: undo what changed it (torch.nn.utils.parametrize.remove_parametrizations, "
                "torch.nn.utils.prune.remove), or let the constructor do it"
            )

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        trust: str | Sequence[str] = (),
    ) -> Self:
        """Load a model in evaluation mode, with the dtype it had; ``model.train()`` to train it further.

        A folder may be a stranger's, so it names classes and runs no code of its own. By themselves load this
        class, others of the module that defines it, those of this package, the modules of `torch.nn` and
        torch's activations. Classes and functions of any other package load only if that package is trusted;
        it is imported from where it is installed or on the path, never from inside the folder.

        Args:
            folder_or_repo: a folder written by `save_pretrained`, or the name of a repository on the Hugging
                Face hub (``owner/name``), which is downloaded.
            revision: branch, tag or commit of the repository; its main branch if None.
            token: of the hub; the one stored by ``hf auth login`` if None, none at all if False.
            cache_dir: where repositories are stored; the hub's own cache if None.
            trust: names of packages, such as ``("my_package",)``, whose classes and functions may be
                imported and called; ``__main__`` is the program that runs.

        Raises:
            OptionError: a revision of a folder.
            RunError: missing or damaged files, a newer schema, a model of another class, a class of a package
                that is not trusted, or hyperparameters that build nothing, or far more than the weights fill.
        """
        trusted = packages(trust)
        folder = _local(folder_or_repo, revision, token, cache_dir)
        config = load_config(folder)
        of_run = folder.name == RUN_MODEL and (folder.parent / RUN_CONFIG).exists()
        known = Trust(trusted, inside=folder.parent if of_run else folder, module=cls.__module__)
        found = known.find(config["class"], nn.Module, functions=False)
        if not issubclass(found, cls):
            raise RunError(
                f"{folder} must hold a {cls.__name__}; it holds a {config['class']}: read it with that class"
            )
        check_file(folder / WEIGHTS)
        with reading(folder / WEIGHTS, "be a whole safetensors file", "copy it again", RunError):
            weights = load_file(folder / WEIGHTS)
        try:
            arguments = _resolved(config["hyperparameters"], known)
        except RecursionError as error:
            raise RunError(f"{folder / CONFIG} must hold plain data; its nesting is too deep") from error
        try:
            with size_limit(weights):
                model: Self = found.rebuild(arguments)
        except Exception as error:  # the user's class may raise anything
            raise RunError(
                f"{folder / CONFIG} must hold hyperparameters that build a {found.__name__}; building gave "
                f"'{first_line(error)}': copy the folder again"
            ) from error
        kinds = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
        if len(kinds) == 1:
            model.to(kinds.pop())
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name in weights and weights[name].is_floating_point() and tensor.is_floating_point():
                tensor.data = tensor.data.to(weights[name].dtype)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise RunError(
                f"the weights in {folder} must fit its config.json; {str(error).splitlines()[-1].strip()}: "
                "the two files come from different models"
            ) from error
        model._convlstm_notes = {name: config[name] for name in config.keys() - RESERVED}
        return model.eval()


def _resolved(hyperparameters: Mapping[str, Any], trust: Trust) -> dict[str, Any]:
    return {name: resolve(value, trust) for name, value in hyperparameters.items()}


def _parts(model: nn.Module) -> dict[str, Any]:
    """Type and options of torch's and this package's modules in a model, by name."""
    known = ("torch.nn.", "convlstm.")
    return {
        name: (type(module), module.extra_repr())
        for name, module in model.named_modules()
        if name and type(module).__module__.startswith(known)
    }


def read_config(folder_or_repo: str | Path) -> dict[str, Any]:
    """Read and check the ``config.json`` of a model folder, or of a repository of the Hugging Face hub.

    Raises:
        RunError: no such file, not one of ours, or written by a newer version.
    """
    return load_config(_local(folder_or_repo))


def _local(
    folder: str | Path,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """Return the folder itself, or the downloaded snapshot of a repository of the hub."""
    folder = check_path(folder, "a model")
    _check_access(revision, token)
    cache_dir = None if cache_dir is None else check_path(cache_dir, "cache_dir")
    exists = _exists(folder)
    if exists and revision is not None:
        raise OptionError(
            f"revision must be that of a repository of the hub; {folder} is a folder, received {revision!r}: "
            "leave it out"
        )
    if exists:
        return folder
    reason = "there is no such folder"
    owner, _, name = folder.as_posix().partition("/")
    # A name in a folder that exists is a mistyped path, for which the network is not used.
    if name and "/" not in name and owner and not owner.startswith(".") and not _exists(Path(owner)):
        from huggingface_hub import errors, snapshot_download

        try:
            return Path(
                snapshot_download(
                    folder.as_posix(),
                    revision=revision,
                    token=token,
                    cache_dir=cache_dir,
                    allow_patterns=[CONFIG, WEIGHTS],
                    library_name="convlstm",
                )
            )
        except errors.HFValidationError:
            pass
        except errors.RevisionNotFoundError:
            reason += f", and the repository on the hub has no revision {revision}"
        except errors.RepositoryNotFoundError:
            reason += ", and the hub has no such repository, or it is private (log in by hf auth login)"
        except (errors.HfHubHTTPError, OSError) as error:
            cause: BaseException = error.__cause__ or error
            offline = isinstance(cause, errors.OfflineModeIsEnabled)
            reason += (
                ", and the hub must not be asked (HF_HUB_OFFLINE is set) for what is not in its cache"
                if offline
                else f", and asking the hub gave '{first_line(cause)}': check the connection, or download it"
            )
    raise RunError(
        f"a model must be an existing folder or a repository of the Hugging Face hub; received {folder}: "
        f"{reason}"
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, or a null character
        return False


def _check_access(revision: str | None, token: str | bool | None) -> None:
    """Check the types of what a repository is reached with; the token stays out of the sentence."""
    if not (revision is None or (isinstance(revision, str) and revision)):
        raise OptionError(f"revision must be the name of a branch, tag or commit; received {revision!r}")
    if not (token is None or isinstance(token, str | bool)):
        raise OptionError(f"token must be text, True, False or None; received a {type(token).__name__}")


@contextmanager
def _uploading(repo: str) -> Iterator[None]:
    """Turn an answer of the hub that refuses an upload, or none, into one sentence."""
    from huggingface_hub import errors

    # Without an answer of the hub it raises what its HTTP library does, which is another by version.
    unanswered: Any = errors.HfHubHTTPError.__bases__
    try:
        yield
    except (*unanswered, errors.HFValidationError, OSError) as error:
        remedy = "check the connection"
        if isinstance(error, errors.OfflineModeIsEnabled):
            remedy = "unset HF_HUB_OFFLINE"
        elif isinstance(error, errors.HfHubHTTPError | errors.HFValidationError):
            remedy = "log in by hf auth login, or give another repo or token"
        raise RunError(
            f"a model is uploaded to a repository that you may write to; {repo} gave '{first_line(error)}': "
            f"{remedy}"
        ) from error


def _card_exists(place: str | Path) -> RunError:
    return RunError(
        f"a model card is written where there is none; {place} has a {CARD}: edit or delete it, or leave "
        "out card"
    )
