#!/usr/bin/env bash
# Fulcrum's one door. `./launch.sh` runs the main job on generated data, `./launch.sh help` lists the rest.
#
# It makes and keeps its own environment (.venv, or $FULCRUM_VENV), made again only when the locks change, picks the
# number of ranks and the threads of each, and hands over. On a machine without a GPU, pip takes torch from wherever
# it is configured to: point it at PyTorch's CPU wheels to spare the download of the CUDA libraries.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${FULCRUM_VENV:-$root/.venv}

gpus=$( (nvidia-smi -L 2>/dev/null || true) | grep -c '^GPU' || true)
if [ "$gpus" -gt 0 ]; then kind=cuda; else kind=cpu; fi
if [ -n "${CUDA_VISIBLE_DEVICES+set}" ] && [ "$gpus" -gt 0 ]; then
  gpus=$(printf '%s' "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | grep -c . || true)
fi
if [ "$gpus" -gt 0 ]; then ranks=$gpus; else ranks=2; fi

find_python() {
  for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo "$candidate"; return; fi
  done
  echo "error: no Python 3.11 or newer on the PATH; install one, or name it with PYTHON=..." >&2
  exit 1
}

# setup STAMP LOCK...: installs the locks unless the environment already holds exactly these
setup() {
  local stamp=$venv/.$1 want; shift
  want=$(cat "$@" | cksum)
  [ "$(cat "$stamp" 2>/dev/null || true)" = "$want" ] && return
  echo "setting up $venv ($kind, from $(basename -a "$@" | paste -sd' '))" >&2
  if [ "$stamp" = "$venv/.base" ]; then
    if [ -n "$(ls -A "$venv" 2>/dev/null)" ] && [ ! -e "$venv/.fulcrum" ]; then
      echo "error: $venv is not an environment that launch.sh made; name another with FULCRUM_VENV=..." >&2; exit 1
    fi
    local interpreter; interpreter=$(find_python)
    rm -rf "$venv"
    mkdir -p "$venv"
    touch "$venv/.fulcrum"
    "$interpreter" -m venv "$venv"
    # torch with its needs, since which libraries its wheel asks for depends on where pip finds it
    [ "$kind" = cuda ] || "$venv/bin/python" -m pip install -qq --progress-bar off -c "$root/requirements/cpu.lock" torch
  fi
  # without dependencies: the locks hold every one, and torchrec's metadata asks for the CUDA fbgemm everywhere
  local lock files=(); for lock in "$@"; do files+=(-r "$lock"); done
  "$venv/bin/python" -m pip install -qq --progress-bar off --no-deps "${files[@]}"
  echo "$want" > "$stamp"
}

setup_all() {
  mkdir -p "$(dirname "$venv")"
  # two launches at once: the second waits for the first one's set-up
  if command -v flock >/dev/null; then
    exec 9>"$venv.lock"
    if ! flock -n 9; then
      echo "waiting for another launch to finish setting up $venv" >&2
      flock -w 1800 9 || { echo "error: it has not finished in 30 minutes; end it and try again" >&2; exit 1; }
    fi
  fi
  setup base "$root/requirements/$kind.lock"
  local extra
  for extra in s3 dashboard serve onnx; do
    case " ${FULCRUM_EXTRAS:-} " in *" $extra "*) setup "$extra" "$root/requirements/$extra.lock" ;; esac
  done
  [ "${1:-}" != dev ] || setup dev "$root"/requirements/{dev,s3,dashboard,serve,onnx}.lock
  exec 9>&- || true
}

cores=$(getconf _NPROCESSORS_ONLN)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1 # a jobs/ or pipeline/ in the caller's folder is not ours
python=$venv/bin/python
job=${1:-}; [ $# -eq 0 ] || shift
# ranked MODULE [JOB] ARGUMENTS: what starts several ranks
ranked() {
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(( cores > ranks ? cores / ranks : 1 ))}
  exec "$python" -m "$@"
}

case $job in
  "")
    setup_all
    "$python" -m jobs.generate --out runs/generated/events
    ranked jobs.launch train --nproc-per-node "$ranks" "$root/jobs/configs/generated.yaml" ;;
  test)
    # a file of tests more than there are cores: each waits for ranks and launchers as long as it computes. In the
    # order of the folders, so that the long ones do not come last
    setup_all dev; cd "$root"; files=$(( cores > 1 ? (cores < 8 ? cores + 1 : 8) : 0 ))
    exec "$python" -m pytest -n "$files" --dist loadfile --no-loadscope-reorder "$@" ;;
  check)
    setup_all dev; cd "$root"
    "$python" -m ruff check . && "$python" -m ruff format --check . && "$python" -m mypy && "$venv/bin/lint-imports" ;;
  help|-h|--help)
    setup_all; exec "$python" -m jobs ;;
  train|score|evaluate|predict|fuse)
    setup_all; ranked jobs.launch "$job" --nproc-per-node "$ranks" "$@" ;;
  daily)
    setup_all; ranked jobs.daily --nproc-per-node "$ranks" "$@" ;;
  *)
    [ -f "$root/jobs/$job.py" ] || { echo "error: no job '$job'; ./launch.sh help lists them" >&2; exit 2; }
    setup_all
    exec "$python" -m "jobs.$job" "$@" ;;
esac
