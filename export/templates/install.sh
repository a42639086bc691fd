#!/bin/sh
# Installs edgedet for this bundle into a virtual environment, checks the bundle in it, and writes the systemd unit.
#
#   ./install.sh                                    environment ./venv
#   sudo ./install.sh --venv /opt/edgedet/venv --unit /etc/systemd/system/edgedet.service
#
# Packages come from the index that pip knows, or from wheels/ alone: PIP_NO_INDEX=1 ./install.sh
set -eu

here=$(cd "$(dirname "$0")" && pwd)
target=@TARGET@
python=${PYTHON:-python3}
venv=$here/venv
unit=
user=edgedet
export PYTHONNOUSERSITE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore # another user is to run it

usage() { sed -n '2,7s/^# \{0,1\}//p' "$0"; }
fail() { echo "install.sh: $*" >&2; exit 2; }
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --venv | --unit | --user) [ $# -gt 1 ] || fail "$1 needs a value" ;;
    *) usage >&2; fail "unknown argument $1" ;;
  esac
  case $1 in --venv) venv=$2 ;; --unit) unit=$2 ;; --user) user=$2 ;; esac
  shift 2
done
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "$python is older than 3.10; name another: PYTHON=python3.12 $0"
"$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python has no venv; apt-get install python3-venv"
case $here$venv in *[[:space:]%\"\'\\]*) fail "the path of the bundle or of --venv has a space or a special character: $here $venv" ;; esac

# What the system brings of this list stays what is used: where it lies, and its version, before and after.
brought() { "$1" -c '
import importlib, sys
for name in ("numpy", "cv2", "tensorrt"):
    try:
        found = importlib.import_module(name)
    except Exception:
        continue
    print(name, getattr(found, "__version__", "?"), found.__file__)
' 2>/dev/null || :; }

pip() { "$venv/bin/python" -m pip "$@"; }
get() { pip install --quiet --find-links "$here/wheels" "$@"; }

if [ "$target" = jetson ]; then
  # JetPack's TensorRT, OpenCV (with GStreamer) and NumPy are no packages of an index: the environment sees the system's.
  before=$(brought "$python")
  "$python" -m venv --system-site-packages "$venv"
  numpy=$(echo "$before" | sed -n 's/^numpy \([^ ]*\) .*/\1/p')
  constraints=$(mktemp)
  trap 'rm -f "$constraints"' EXIT
  [ -z "$numpy" ] || echo "numpy==$numpy" >"$constraints"
  [ -n "$numpy" ] || get numpy
  echo "$before" | grep -q '^cv2 ' || get -c "$constraints" opencv-python-headless
  get -c "$constraints" -r "$here/requirements.txt"
  # These ask for a newer NumPy than JetPack 6 has and run with it.
  get --no-deps -r "$here/requirements-no-deps.txt"
else
  "$python" -m venv "$venv"
  get -r "$here/requirements.txt"
fi
pip install --quiet --no-deps --force-reinstall "$here"/wheels/edgedet-*.whl
if [ "$target" = jetson ]; then
  after=$(brought "$venv/bin/python")
  echo "$before" | while read -r line; do
    [ -z "$line" ] || echo "$after" | grep -qxF "$line" || fail "the environment has another $line than the system: $after"
  done
fi
"$venv/bin/python" -c 'import cv2' || fail "OpenCV does not import in $venv, see above"

# The engine that a Jetson compiles here, for minutes, is the one that the service takes.
kept=$here/cache
[ -z "$unit" ] || kept=/var/cache/edgedet
"$venv/bin/edgedet" up "$here" --check --cache "${CACHE:-$kept}"

if [ -n "$unit" ]; then
  if ! id "$user" >/dev/null 2>&1; then
    useradd --system --no-create-home --shell /usr/sbin/nologin "$user"
  fi
  groups=
  for group in video render; do ! getent group "$group" >/dev/null || groups="$groups $group"; done
  sed -e "s|@BUNDLE@|$here|g" -e "s|@VENV@|$venv|g" -e "s|@USER@|$user|g" -e "s|@GROUPS@|${groups# }|g" \
    "$here/edgedet.service" >"$unit.new"
  mv "$unit.new" "$unit"
  echo "wrote $unit; start it with: systemctl daemon-reload && systemctl enable --now $(basename "$unit" .service)"
fi
echo "installed; run it with: $venv/bin/edgedet up $here"
