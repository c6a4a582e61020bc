"""What this project uses of Dagster beyond its public API, because users would miss it.

Any release of Dagster may move these. Each module says why nothing public does; a test names each
import that a release has moved, and CI runs it against the newest Dagster.

- `asset_graphs`: a run finds an upstream asset also where it has no code location.
- `expected_failure`: a failure whose message says all is shown without a stack of frames.
- `web_server`: the guard of `batchrec ui` runs in the process of Dagster's web page.
"""
