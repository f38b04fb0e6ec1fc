"""Fetching the public data sets: what to ask which server for. The fetching itself is in :mod:`download`.

Each command ends with files as its reader wants them: 'neurobridge data import SOURCE FOLDER' comes next.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, urlencode

from rich.console import Console
from rich.progress import track

from neurobridge.data.download import Item, fetch, get_json
from neurobridge.data.importing import refuse_pointer
from neurobridge.errors import UserError, reading

DANDI = "https://api.dandiarchive.org/api"
GIN = "https://gin.g-node.org"
GITHUB_API, GITHUB_RAW = "https://api.github.com", "https://raw.githubusercontent.com"
ALYX = "https://openalyx.internationalbrainlab.org"
IBL_FILES = re.compile(
    r"alf/(probe\w+/(.+/)?(spikes\.(times|clusters|amps|depths)\.npy"
    r"|clusters\.(channels|depths|metrics|uuids)\.(npy|pqt|csv)"
    r"|channels\.(mlapdv|localCoordinates|rawInd|brainLocationIds_ccf_2017)\.npy)"
    r"|(.+/)?_ibl_(trials\.table\.pqt|wheel\.(position|timestamps)\.npy))"
)
STRANGE = "the server may have changed, or stands between you and it: check the address, or try again later"
SORTERS = ("iblsorter", "pykilosort")


def get_allen(
    out: Path = Path("downloads/allen"),
    *,
    sessions: tuple[str, ...] = (),
    lfp: bool = False,
    version: str = "",
    list_only: bool = False,
    api: str = DANDI,
) -> Path:
    """Fetch Allen Visual Coding Neuropixels sessions (NWB, 2 to 4 GB each) from DANDI 000021; goes on where it stopped.

    Args:
        out: Folder for the files.
        sessions: Session numbers, such as 715093703; all of them if none is given.
        lfp: Fetch the field potentials of the probes too (large, and not read here).
        version: Version of the dandiset; the newest published one if empty.
        list_only: Say which files there are and how large, and fetch nothing.
        api: Address of the DANDI API.
    """

    def wanted(path: str) -> bool:
        found = re.search(r"_ses-(\d+)(_probe-\d+)?.*\.nwb$", path)
        return found is not None and (lfp or not found[2]) and (not sessions or found[1] in sessions)

    return _get_dandiset("000021", out, wanted, sessions, version=version, list_only=list_only, api=api)


def get_nlb(
    out: Path = Path("downloads/mc_maze"),
    *,
    dandiset: str = "000128",
    version: str = "",
    list_only: bool = False,
    api: str = DANDI,
) -> Path:
    """Fetch NLB MC_Maze (NWB, about 700 MB) from DANDI; goes on where it stopped.

    Args:
        out: Folder for the files.
        dandiset: 000128 is the full data set; 000138, 000139 and 000140 are the large, medium and small one.
        version: Version of the dandiset; the newest published one if empty.
        list_only: Say which files there are and how large, and fetch nothing.
        api: Address of the DANDI API.
    """
    return _get_dandiset(dandiset, out, lambda p: p.endswith(".nwb"), (), version=version, list_only=list_only, api=api)


def _fetch_whole(items: list[Item], out: Path, *, list_only: bool) -> Path:
    """Fetch ``items`` from a git server, which may give a pointer to a file in its place: that is refused."""
    fetch(items, out, list_only=list_only)
    for item in () if list_only else items:
        refuse_pointer(out / item.path)
    return out


def get_tvsd(
    out: Path = Path("downloads/tvsd"),
    *,
    monkeys: tuple[str, ...] = ("F", "N"),
    trials: bool = False,
    list_only: bool = False,
    gin: str = GIN,
) -> Path:
    """Fetch TVSD (normalised MUA, about 200 MB a monkey) from GIN's web; goes on where it stopped.

    GIN gives no checksums: the size is all that is checked. The THINGS pictures come from things-initiative.org.

    Args:
        out: Folder for the files.
        monkeys: Animals, F and N.
        trials: Fetch THINGS_MUA_trials.mat too, about 55 GB a monkey.
        list_only: Say which files there are, and fetch nothing.
        gin: Address of the GIN server.
    """
    strange = [name for name in monkeys if name not in ("F", "N")]
    if strange:
        raise UserError(f"--monkeys names '{strange[0]}': the animals are F and N")
    names = ["THINGS_normMUA.mat", "_logs/things_imgs.mat", "_logs/1024chns_mapping_20220105.mat"]
    names += ["THINGS_MUA_trials.mat"] if trials else []
    paths = [f"monkey{monkey}/{name}" for monkey in monkeys for name in names]
    items = [Item(url=f"{gin}/paolo_papale/TVSD/raw/master/{path}", path=path) for path in paths]
    return _fetch_whole(items, Path(out), list_only=list_only)


def get_retina(out: Path = Path("downloads/retina"), *, list_only: bool = False, gin: str = GIN) -> Path:
    """Fetch salamander ganglion cells under natural images (Liu & Gollisch 2021) from GIN; goes on where it stopped.

    GIN gives no checksums: the size is all that is checked. Its repository states the licence and what to cite.

    Args:
        out: Folder for the files.
        list_only: Say which files there are, and fetch nothing.
        gin: Address of the GIN server.
    """
    repository = "gollischlab/Liu_Gollisch_2021_RGC_spiketrains_spatial_contrast_model"
    names = ("responses2naturalimages.h5", "trialnumbers.txt")
    items = [Item(url=f"{gin}/{repository}/raw/master/{name}", path=name) for name in names]
    return _fetch_whole(items, Path(out), list_only=list_only)


def get_v4(
    out: Path = Path("downloads/macaque_v4"),
    *,
    branch: str = "main",
    list_only: bool = False,
    api: str = GITHUB_API,
    raw: str = GITHUB_RAW,
) -> Path:
    """Fetch the macaque V4 release of Cowley et al. 2023 from GitHub (git's own checksums); goes on where it stopped.

    Args:
        out: Folder for the files: responses_mean/ and images/.
        branch: Branch, tag or commit of the repository.
        list_only: Say which files there are and how large, and fetch nothing.
        api: Address of GitHub's API.
        raw: Address of GitHub's files.
    """
    repository, top = "cowleygroup/V4_compact_models", "data_V4_responses/"
    tree = get_json(f"{api}/repos/{repository}/git/trees/{quote(branch)}?recursive=1")
    folders = {"responses_repeat_averaged/": "responses_mean/", "images/": "images/"}
    items = []
    with reading(api, "index of files", STRANGE):
        for entry in tree.get("tree", []):
            inside = entry["path"].removeprefix(top)
            folder = next((name for name in folders if inside.startswith(name)), None)
            if entry["path"].startswith(top) and folder is not None and entry["type"] == "blob":
                url = f"{raw}/{repository}/{quote(branch)}/{quote(entry['path'])}"
                path = folders[folder] + inside.removeprefix(folder)
                items.append(Item(url=url, path=path, size=int(entry["size"]), checksum=f"git-blob:{entry['sha']}"))
    if not items:
        raise UserError(f"{api} lists no V4 responses on the branch '{branch}': the repository may have changed")
    return _fetch_whole(items, Path(out), list_only=list_only)


def get_ibl(
    out: Path = Path("downloads/ibl"),
    *,
    sessions: tuple[str, ...] = (),
    tag: str = "2023_12_bwm_release",
    list_only: bool = False,
    alyx: str = ALYX,
) -> Path:
    """Fetch sessions of the IBL Brain-Wide Map through ONE, which checks every file; goes on where it stopped.

    Args:
        out: Folder for the files, laid out as ONE does.
        sessions: Session ids (eid); all 459 of the release if none is given, some hundred gigabytes.
        tag: Tag of the release.
        list_only: Say which files there are and how large, and fetch nothing.
        alyx: Address of the Alyx database.
    """
    try:
        from one.api import ONE
    except ModuleNotFoundError as error:
        raise UserError(
            "fetching IBL data needs ONE: pip install 'neurobridge[data]' or pip install ONE-api"
        ) from error
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    one = ONE(base_url=alyx, password="international", silent=True, cache_dir=out)
    one.load_cache(tag=tag)
    known = [str(eid) for eid in one.search(query_type="local")]
    strange = [eid for eid in sessions if eid not in known]
    if not known or strange:
        what = f"session '{strange[0]}' is not in" if known else "no session was found in"
        raise UserError(f"{what} the release {tag} at {alyx}: check the connection, --tag and --sessions")
    chosen = list(sessions or known)
    sizes = {eid: ibl_files(one, eid) for eid in chosen}
    total = sum(sum(files.values()) for files in sizes.values())
    files = sum(len(f) for f in sizes.values())
    Console(highlight=False).print(f"{len(chosen)} sessions, {files} files, {total / 1e9:.1f} GB, into {out}")
    if not list_only:
        for eid in track(chosen, "sessions", transient=True):
            one.load_datasets(eid, list(sizes[eid]), download_only=True, assert_present=False)
    return out


def ibl_files(one, eid: str) -> dict[str, int]:
    """What the reader needs of a session: relative path -> bytes. One sorter a probe, iblsorter before pykilosort."""
    table = one.list_datasets(eid, query_type="local", details=True)
    if "default_revision" in table.columns:
        table = table[table["default_revision"]]
    found = dict(zip(table["rel_path"], table["file_size"], strict=True))
    found = {path: int(size) for path, size in found.items() if IBL_FILES.fullmatch(path)}
    chosen = {path: size for path, size in found.items() if not path.startswith("alf/probe")}
    for probe in {path.split("/")[1] for path in found if path.startswith("alf/probe")}:
        own = {path: size for path, size in found.items() if path.startswith(f"alf/{probe}/")}
        sorter = next((name for name in SORTERS if any(f"/{name}/" in path for path in own)), None)
        chosen |= {path: size for path, size in own.items() if sorter is None or f"/{sorter}/" in path}
    return dict(sorted(chosen.items()))


def _get_dandiset(
    number: str, out: Path, wanted, sessions: tuple[str, ...], *, version: str, list_only: bool, api: str
) -> Path:
    """The files of a dandiset whose path is ``wanted``, with the archive's checksums."""
    if not version:
        published = get_json(f"{api}/dandisets/{number}/").get("most_recent_published_version")
        with reading(api, "index of versions", STRANGE):
            version = published["version"] if published else "draft"
    base = f"{api}/dandisets/{number}/versions/{quote(str(version), safe='')}/assets/"
    found, page, pages = [], f"{base}?{urlencode({'page_size': 200, 'order': 'path'})}", set()
    while page:
        if page in pages:
            raise UserError(f"the index of dandiset {number} at {api} leads in a circle: {STRANGE}")
        pages.add(page)
        answer = get_json(page)
        with reading(page, "index of files", STRANGE):
            found += [asset for asset in answer["results"] if wanted(asset["path"])]
            page = str(answer.get("next") or "")
    absent = [name for name in sessions if not any(f"_ses-{name}" in asset["path"] for asset in found)]
    if absent or not found:
        what = f"session '{absent[0]}' is not in" if absent else "no file of ours is in"
        raise UserError(f"{what} dandiset {number}, version {version}, at {api}: see what there is with --list_only")
    items = []
    for asset in track(found, "checksums", transient=True, disable=len(found) < 20):
        with reading(base, "index of files", STRANGE):
            name = quote(str(asset["asset_id"]), safe="")
            digest = get_json(f"{base}{name}/").get("digest", {})
            checksum = f"sha256:{digest['dandi:sha2-256']}" if "dandi:sha2-256" in digest else ""
            if not checksum and "dandi:dandi-etag" in digest:
                checksum = f"dandi-etag:{digest['dandi:dandi-etag']}"
            url = f"{api}/assets/{name}/download/"
            items.append(Item(url=url, path=asset["path"], size=int(asset["size"]), checksum=checksum))
    fetch(items, Path(out), list_only=list_only)
    return Path(out)
