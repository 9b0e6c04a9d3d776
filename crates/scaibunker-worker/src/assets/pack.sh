# pack TREE FILE: makes an ext4 file system of a tree, no larger than it must be, because the
# image is only ever read.
pack() {
    files=$(find "$1" | wc -l)
    kib=$(du --summarize --apparent-size --block-size=1K "$1" | cut -f1)
    # Room for the last block of each file and the file system's own tables; taken back below.
    mkfs.ext4 -q -b 4096 -m 0 -N $((files + 64)) -O ^has_journal,^resize_inode \
        -E root_owner=0:0,hash_seed=6d3c0a52-2f5c-4f39-9d0e-5b1f7d3a9c11 \
        -U 3f0e8d6b-7c55-4a7e-8a39-0c2d9b64e1f7 \
        -d "$1" "$2" $((kib + kib / 10 + files * 4 + 16384))K
    resize2fs -M "$2" >/dev/null
}
