#!/bin/sh
# What the stages of every image's build do; docs/containers.md tells how they fit together.
#
#   stages.sh wheels FILE…       download the wheels of lock files, by hash; never a source that wants a compiler
#   stages.sh tools              install what images are built with, into /build
#   stages.sh package            build the wheel of Esclusa, once for all images
#   stages.sh environment FILE   make /opt/esclusa from a lock file and that wheel, with its bill of materials
#
# Nothing of this runs in an image, and none of it is in one.
set -eu
umask 022
# The same order of everything that Python puts into compiled files.
export PYTHONHASHSEED=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
source=/src
if [ -f "$source/build-ca.pem" ]; then
    export PIP_CERT="$source/build-ca.pem"
fi

offline() { # COMMAND… - run pip where it finds what was downloaded, and nothing else
    PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels "$@"
}

wheels() {
    [ -x /build/bin/python ] || python3 -m venv /build
    for file in "$@"; do
        /build/bin/pip download --quiet --require-hashes --no-deps --only-binary=:all: --dest /wheels \
            --requirement "$source/requirements/$file"
    done
}

tools() {
    offline /build/bin/pip install --quiet --require-hashes --no-deps --requirement "$source/requirements/build.txt"
}

package() {
    cd "$source"
    /build/bin/python -m hatchling build --target wheel --directory /package
}

environment() {
    python3 -m venv --without-pip /opt/esclusa
    install_into="/build/bin/pip --python /opt/esclusa/bin/python install --quiet --no-deps --no-compile"
    offline $install_into --require-hashes --requirement "$source/requirements/$1"
    offline $install_into /package/*.whl
    # pip writes down where it found the wheel of Esclusa; scripts of the environment itself are for a shell.
    rm -rf /opt/esclusa/lib/python3.*/site-packages/esclusa-*.dist-info/direct_url.json
    rm -f /opt/esclusa/bin/activate* /opt/esclusa/bin/Activate.ps1
    # Tests and headers of others, a tenth of the whole.
    find /opt/esclusa/lib/python3.*/site-packages -mindepth 2 -maxdepth 2 -type d \( -name tests -o -name include \) \
        -exec rm -rf {} +
    # Nothing can be compiled in a read-only image. The hash, not the time, says which source it was.
    /opt/esclusa/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/esclusa/lib
    /build/bin/cyclonedx-py environment /opt/esclusa/bin/python --pyproject "$source/pyproject.toml" \
        --output-reproducible --output-format JSON --output-file /opt/esclusa/sbom.cdx.json
    find /opt/esclusa -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-0}" {} +
}

step=$1
shift
"$step" "$@"
