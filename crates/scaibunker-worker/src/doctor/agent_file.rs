//! Whether the guest agent's file can run where there is nothing but the kernel.

/// What a program needs beside itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linkage {
    Static,
    /// Asks for an interpreter, which would load libraries.
    Dynamic,
}

const X86_64: u64 = 62;
const PT_INTERP: u64 = 3;

/// How an x86-64 ELF program is linked; `None` if the bytes are none.
pub fn linkage(elf: &[u8]) -> Option<Linkage> {
    let number = |offset: usize, bytes: usize| -> Option<u64> {
        let field = elf.get(offset..offset.checked_add(bytes)?)?;
        Some(field.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    };
    if !elf.starts_with(b"\x7fELF\x02\x01") || number(0x12, 2)? != X86_64 {
        return None;
    }
    let table = usize::try_from(number(0x20, 8)?).ok()?;
    let (size, count) = (number(0x36, 2)? as usize, number(0x38, 2)? as usize);
    for index in 0..count {
        if number(table.checked_add(index * size)?, 4)? == PT_INTERP {
            return Some(Linkage::Dynamic);
        }
    }
    Some(Linkage::Static)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn program(header_types: &[u8]) -> Vec<u8> {
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x12] = 62;
        elf[0x20] = 64;
        elf[0x36] = 56;
        elf[0x38] = header_types.len() as u8;
        for header_type in header_types {
            elf.push(*header_type);
            elf.extend_from_slice(&[0; 55]);
        }
        elf
    }

    #[test]
    fn an_interpreter_means_dynamic() {
        assert_eq!(linkage(&program(&[1, 2, 1])), Some(Linkage::Static));
        assert_eq!(linkage(&program(&[6, 3, 1])), Some(Linkage::Dynamic));
        assert_eq!(linkage(b"#!/bin/sh"), None);
    }

    #[test]
    fn this_test_is_a_dynamic_program() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(linkage(&own), Some(Linkage::Dynamic));
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in 0usize..240, value: u8, end in 0usize..240) {
            let mut elf = program(&[1, 3, 1]);
            let (at, end) = (at % elf.len(), end % elf.len());
            elf[at] = value;
            let _ = linkage(&elf);
            let _ = linkage(&elf[..end]);
        }
    }
}
