# Sourced by quickstart.sh and test.sh from the repository's root: makes sure that what the build needs is there.
# On Debian and as root (or with sudo) missing packages are installed; otherwise the script says what to install and stops.

packages="gcc libc6-dev pkg-config meson ninja-build libcmocka-dev libcjson-dev zlib1g-dev libsodium-dev libdlpack-dev libmpfr-dev"

missing=""
for package in $packages; do
  command -v dpkg-query >/dev/null || break # another system: the configuration names what it lacks
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
  if [ "$(id -u)" = 0 ]; then sudo=""
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo="sudo"
  else
    echo "These packages are missing and this user may not install them:$missing" >&2
    echo "Run as root:  apt-get install$missing" >&2
    exit 1
  fi
  echo "Installing:$missing"
  $sudo apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -q --no-install-recommends $missing >/dev/null
fi

# A meson found first on the PATH may be a stub that does not run; Debian's always does.
meson=meson
$meson --version >/dev/null 2>&1 || meson=/usr/bin/meson

# build DIR [meson options]: configures once and compiles.
build() {
  directory=$1; shift
  [ -f "$directory/build.ninja" ] || $meson setup "$directory" "$@" >"$directory.log" 2>&1 || { cat "$directory.log" >&2; exit 1; }
  $meson compile -C "$directory" >"$directory.log" 2>&1 || { grep -A 20 -m 1 'FAILED\|error' "$directory.log" >&2; exit 1; }
  rm -f "$directory.log"
}
