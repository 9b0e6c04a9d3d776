//! Which hosts a guest's memory can go on on.
//!
//! A running guest has looked at its CPU and remembers what it saw. Under kvm that is the host's; under tcg
//! it is QEMU's own, but for the rate of the time stamp counter, which is the host's.

use std::{collections::BTreeMap, fs};

use sha2::{Digest as _, Sha256};

use super::{Accelerator, tsc};
use crate::assets::hexadecimal;

/// Changes with whatever a saved state does not load without: the machine's devices and their order.
const MACHINE: u32 = 1;

/// What two hosts have in common on which the same guest can run, besides the engine.
pub fn of_host(accelerator: Accelerator) -> String {
    match accelerator {
        // Measured anew at each start: the last digits differ.
        Accelerator::Tcg => format!("m{MACHINE} tcg, TSC {} MHz", (tsc::host_khz() + 500) / 1_000),
        Accelerator::Kvm => {
            let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            format!("m{MACHINE} kvm, {}", describe(&cpus))
        }
    }
}

/// The first CPU, by what a guest sees of it.
fn describe(cpus: &str) -> String {
    let first = cpus.lines().take_while(|line| !line.trim().is_empty());
    let fields: BTreeMap<_, _> = first
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim(), value.trim()))
        .collect();
    let field = |name| fields.get(name).copied().unwrap_or("unknown");
    let mut flags: Vec<_> = field("flags").split(' ').collect();
    flags.sort_unstable();
    let flags = hexadecimal(&Sha256::digest(flags.join(" ")));
    let (vendor, family) = (field("vendor_id"), field("cpu family"));
    let (model, stepping) = (field("model"), field("stepping"));
    format!("{vendor} {family}-{model}-{stepping}, flags {}", &flags[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUS: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\n\
        model\t\t: 85\nmodel name\t: Xeon\nstepping\t: 7\nflags\t\t: fpu vme\n\n\
        processor\t: 1\nstepping\t: 8\n";

    #[test]
    fn a_class_is_what_a_guest_sees_of_the_first_cpu() {
        let class = describe(CPUS);
        assert!(class.starts_with("GenuineIntel 6-85-7, flags "), "{class}");
        assert_eq!(describe(&CPUS.replace("fpu vme", "vme fpu")), class);
        assert_ne!(describe(&CPUS.replace("fpu vme", "fpu vme avx")), class);
        assert_ne!(describe(&CPUS.replace("85", "86")), class);
        assert!(describe("").starts_with("unknown"));
    }
}
