#!/bin/sh
# What the stages of every image's build do; docs/containers.md tells how they fit together.
#
#   stages.sh wheels FILE…   download the wheels of lock files, by hash, and install the tools of the build
#   stages.sh base FILE      make the environment /opt/esclusa of what all images have
#   stages.sh package        build the wheel of Esclusa
#   stages.sh install FILE   add the rest of a lock file, and keep what is new in /additions
#   stages.sh finish         add the wheel of Esclusa likewise, and the bill of materials
#
# Nothing of this runs in an image, and none of it is in one.
set -eu
umask 022
# The order of what Python puts into compiled files depends on it.
export PYTHONHASHSEED=0
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
if [ -f /src/build-ca.pem ]; then
    export PIP_CERT=/src/build-ca.pem
fi

wheels() {
    [ -x /build/bin/python ] || python3 -m venv /build
    for file in "$@"; do
        # Never a source, which would want a compiler.
        /build/bin/pip download --quiet --require-hashes --no-deps --only-binary=:all: --dest /wheels \
            --requirement "/src/requirements/$file"
        if [ "$file" = build.txt ]; then
            /build/bin/pip install --quiet --no-deps /wheels/*.whl
        fi
    done
}

package() {
    cd /src
    /build/bin/python -m hatchling build --target wheel --directory /package
}

base() {
    python3 -m venv --without-pip /opt/esclusa
    rm -f /opt/esclusa/bin/activate* /opt/esclusa/bin/Activate.ps1
    add --require-hashes --requirement "/src/requirements/$1"
    settle /opt/esclusa
}

install() {
    add --require-hashes --requirement "/src/requirements/$1"
    keep_additions
}

finish() {
    add /package/*.whl
    keep_additions
    /build/bin/cyclonedx-py environment /opt/esclusa/bin/python --pyproject /src/pyproject.toml --output-reproducible \
        --output-format JSON --output-file /additions/sbom.cdx.json
    settle /additions
}

add() { # WHAT… - install from the wheels at hand, as pip is told
    touch /tmp/before
    PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels /build/bin/pip --python /opt/esclusa/bin/python install \
        --quiet --no-deps --no-compile "$@"
    # Tests and headers of others, and where pip found the wheel of Esclusa.
    find /opt/esclusa/lib/python3.*/site-packages -mindepth 2 -maxdepth 2 \
        \( -name tests -o -name include -o -name direct_url.json \) -exec rm -rf {} +
    # Nothing can be compiled in a read-only image. A hash, and no time, says which source it was.
    find /opt/esclusa -cnewer /tmp/before -type f -name '*.py' >/tmp/modules
    if [ -s /tmp/modules ]; then
        /opt/esclusa/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash -i /tmp/modules
    fi
}

# Layers that images have in common are stored and pulled once: so what comes on top holds only what is new.
keep_additions() {
    mkdir -p /additions
    cd /opt/esclusa
    find . -cnewer /tmp/before ! -type d -print0 | tar --create --null --files-from - | tar --extract --directory /additions
}

settle() { # DIRECTORY - the same times whenever it is built
    find "$1" -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-0}" {} +
}

step=$1
shift
"$step" "$@"
