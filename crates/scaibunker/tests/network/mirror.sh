# Makes an index for pip, a repository for apt and one for git below $1.

mkdir -p "$1/simple/greeting" "$1/debian"

python3 - "$1/simple/greeting" <<'PYTHON'
import sys, zipfile
name = 'greeting-1.0-py3-none-any.whl'
with zipfile.ZipFile(f'{sys.argv[1]}/{name}', 'w') as wheel:
    wheel.writestr('greeting.py', 'TEXT = "hello"\n')
    info = 'greeting-1.0.dist-info'
    wheel.writestr(f'{info}/METADATA', 'Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n')
    wheel.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
    wheel.writestr(f'{info}/RECORD', 'greeting.py,,\n')
with open(f'{sys.argv[1]}/index.html', 'w') as page:
    page.write(f'<!DOCTYPE html><a href="{name}">{name}</a>\n')
PYTHON

package=$(mktemp -d)
chmod 755 "$package"
mkdir -p "$package/DEBIAN" "$package/usr/share"
echo hello >"$package/usr/share/greeting"
cat >"$package/DEBIAN/control" <<CONTROL
Package: greeting
Version: 1.0
Architecture: all
Maintainer: nobody <nobody@mirror.test>
Description: a greeting
CONTROL
dpkg-deb --root-owner-group --build "$package" "$1/debian/greeting.deb" >/dev/null
(
    cd "$1/debian"
    cat "$package/DEBIAN/control"
    printf 'Filename: ./greeting.deb\nSize: %s\nSHA256: %s\n' \
        "$(stat -c %s greeting.deb)" "$(sha256sum greeting.deb | cut -d' ' -f1)"
) >"$1/debian/Packages"

work=$(mktemp -d)
git -C "$work" init -q
echo hello >"$work/greeting"
git -C "$work" add greeting
git -C "$work" -c user.name=nobody -c user.email=nobody@mirror.test commit -q --no-verify -m greeting
git clone -q --bare "$work" "$1/greeting.git"
git -C "$1/greeting.git" update-server-info
rm -rf "$package" "$work"
