//! Kernel modules: which ones the guest needs, and in which order they load.
//!
//! Debian's package holds no `modules.dep` (it is made at installation), so the dependencies come
//! from where `depmod` has them too: the `depends=` line in each module's `.modinfo` section.

use std::collections::{BTreeMap, BTreeSet};

/// What the guest needs of the kernel that may be a module: the virtio devices, the overlay of
/// image and scratch disk, and the file system of both.
pub const WANTED: [&str; 10] = [
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_console",
    "overlay",
    "ext4",
];

/// Name of the module in a file such as `kernel/drivers/virtio/virtio-mmio.ko.xz`.
pub fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let stem = file.strip_suffix(".xz").unwrap_or(file).strip_suffix(".ko")?;
    Some(stem.replace('-', "_"))
}

/// Names of what is part of the kernel itself, from its `modules.builtin`.
pub fn builtin(list: &str) -> BTreeSet<String> {
    list.lines().filter_map(name_of).collect()
}

/// The modules that `wanted` comes to, each after all it depends on, with its file's bytes.
///
/// `read` gives the bytes of the module of that name; `None` when there is none.
pub fn load_order<E>(
    wanted: &[&str],
    builtin: &BTreeSet<String>,
    mut read: impl FnMut(&str) -> Result<Option<Vec<u8>>, E>,
) -> Result<Vec<(String, Vec<u8>)>, OrderError<E>> {
    let mut order = Vec::new();
    let mut open: Vec<Step> =
        wanted.iter().rev().map(|name| Step::Visit((*name).to_owned())).collect();
    let mut visited = BTreeSet::new();
    let mut waiting = BTreeMap::new();
    while let Some(step) = open.pop() {
        match step {
            Step::Visit(name) => {
                if builtin.contains(&name) || !visited.insert(name.clone()) {
                    continue;
                }
                let bytes = read(&name)
                    .map_err(OrderError::Read)?
                    .ok_or_else(|| OrderError::NoSuchModule(name.clone()))?;
                let depends = depends(&bytes).ok_or_else(|| OrderError::NoModinfo(name.clone()))?;
                waiting.insert(name.clone(), bytes);
                open.push(Step::Emit(name));
                open.extend(depends.into_iter().rev().map(Step::Visit));
            }
            Step::Emit(name) => order.extend(waiting.remove_entry(&name)),
        }
    }
    Ok(order)
}

/// A module or one it depends on cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum OrderError<E> {
    #[error("there is no module `{0}`, neither as a file nor built in")]
    NoSuchModule(String),
    #[error("the file of module `{0}` has no module information")]
    NoModinfo(String),
    #[error("a module cannot be read")]
    Read(E),
}

enum Step {
    Visit(String),
    Emit(String),
}

/// What a module says it depends on; `None` if the file is no module.
fn depends(elf: &[u8]) -> Option<Vec<String>> {
    let modinfo = std::str::from_utf8(section(elf, ".modinfo")?).ok()?;
    let value = modinfo.split('\0').find_map(|entry| entry.strip_prefix("depends="))?;
    let names = value.split(',').filter(|name| !name.is_empty());
    Some(names.map(|name| name.replace('-', "_")).collect())
}

/// The bytes of a section of a 64-bit little-endian ELF file.
fn section<'a>(elf: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    const HEADER_BYTES: usize = 64;
    let number = |offset: usize, bytes: usize| -> Option<usize> {
        let field = elf.get(offset..offset.checked_add(bytes)?)?;
        let value = field.iter().rev().fold(0_u64, |value, &byte| value << 8 | u64::from(byte));
        usize::try_from(value).ok()
    };
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, count, names) = (number(0x28, 8)?, number(0x3c, 2)?, number(0x3e, 2)?);
    let header = |index: usize| table.checked_add(index * HEADER_BYTES);
    let contents = |header: usize| {
        let start = number(header.checked_add(0x18)?, 8)?;
        elf.get(start..start.checked_add(number(header.checked_add(0x20)?, 8)?)?)
    };
    let names = contents(header(names)?)?;
    (0..count).find_map(|index| {
        let header = header(index)?;
        let name = names.get(number(header, 4)?..)?;
        let name = name.split(|&byte| byte == 0).next()?;
        (name == wanted.as_bytes()).then(|| contents(header))?
    })
}

#[cfg(test)]
pub mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// The least ELF file with a `.modinfo` section.
    pub fn module(depends: &str) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let info = format!("license=GPL\0depends={depends}\0name=x\0");
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let names_at = elf.len();
        elf.extend_from_slice(names);
        let info_at = elf.len();
        elf.extend_from_slice(info.as_bytes());
        let table = elf.len();
        for (name, at, size) in [(1_u32, info_at, info.len()), (10, names_at, names.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            elf.extend_from_slice(&header);
        }
        elf[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        elf[0x3c] = 2;
        elf[0x3e] = 1;
        elf
    }

    fn order(wanted: &[&str], builtin_list: &str, graph: &[(&str, &str)]) -> Vec<String> {
        let read = |name: &str| -> Result<_, Infallible> {
            Ok(graph.iter().find(|(module, _)| *module == name).map(|(_, deps)| module(deps)))
        };
        let order = load_order(wanted, &builtin(builtin_list), read).unwrap();
        order.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_module_comes_after_what_it_depends_on_and_only_once() {
        let graph = [
            ("virtio_net", "net-failover,virtio"),
            ("net_failover", "failover"),
            ("failover", ""),
            ("virtio", "virtio_ring"),
            ("virtio_ring", ""),
        ];
        let expected = ["failover", "net_failover", "virtio_ring", "virtio", "virtio_net"];
        assert_eq!(order(&["virtio_net", "virtio"], "", &graph), expected);
    }

    #[test]
    fn what_is_built_in_is_left_out() {
        let builtin = "kernel/fs/ext4/ext4.ko\nkernel/lib/crc-16.ko\n";
        assert_eq!(order(&["ext4", "overlay"], builtin, &[("overlay", "crc_16")]), ["overlay"]);
    }

    #[test]
    fn a_circle_ends() {
        assert_eq!(order(&["a"], "", &[("a", "b"), ("b", "a")]), ["b", "a"]);
    }

    #[test]
    fn a_missing_module_is_named() {
        let read = |_: &str| Ok::<_, Infallible>(None);
        let error = load_order(&["overlay"], &BTreeSet::new(), read).unwrap_err();
        assert!(error.to_string().contains("`overlay`"));
    }

    proptest! {
        #[test]
        fn damaged_modules_never_panic(at in 0usize..300, value: u8, end in 0usize..300) {
            let mut elf = module("a,b");
            let (at, end) = (at % elf.len(), end % elf.len());
            elf[at] = value;
            let _ = depends(&elf);
            let _ = depends(&elf[..end]);
        }
    }
}
