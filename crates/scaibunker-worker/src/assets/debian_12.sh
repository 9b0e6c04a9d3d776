# mmdebstrap's last hook for the image debian-12; $1 is the root, /proc, /sys and /dev mounted.
set -eu
root=$1
# The directory the server works in is closed to an ordinary user's namespace.
cd /

# Root in a bunker needs a permission of its own, so the default user is another one, and there
# is no sudo.
chroot "$root" useradd --uid 1000 --user-group --create-home --shell /bin/bash bunker

# Debian keeps pip away from its own Python packages; a bunker is disposable, and people expect
# `pip install` to work. The plain user's installations go to ~/.local.
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED

# What mmdebstrap took over from the host for the installation, or would remove only later.
chroot "$root" apt-get clean
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/debconf/*-old \
    "$root"/var/cache/ldconfig/aux-cache "$root"/etc/resolv.conf
find "$root/var/log" -xdev -type f -delete
echo bunker >"$root/etc/hostname"
printf '127.0.0.1\tlocalhost bunker\n::1\tlocalhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
: >"$root/etc/resolv.conf"
: >"$root/etc/machine-id"
chmod 644 "$root/etc/hostname" "$root/etc/hosts" "$root/etc/resolv.conf" "$root/etc/machine-id"

# A view of the root without the mounts in it, and without the files that mmdebstrap and apt still
# need in /tmp.
view=$root.view
mkdir "$view"
mount --bind "$root" "$view"
mount -t tmpfs -o mode=1777 tmpfs "$view/tmp"
pack "$view" "$root.ext4"
umount "$view/tmp" "$view"
rmdir "$view"
mv "$root.ext4" "$root/rootfs.ext4"
