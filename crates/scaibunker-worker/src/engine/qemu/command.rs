//! QEMU's command line. Template and clone must agree on every device, or the state won't load.

use std::ffi::{CString, NulError};

use scaibunker_guest_protocol::{BASE_DISK_SERIAL, PORT_NAME, SCRATCH_DISK_SERIAL};

use super::{Accelerator, tsc};
use crate::{engine::Shape, gpus::Gpu, jail::FIRST_FD};

/// The descriptors a VMM gets, in this order.
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
pub enum PassedFile {
    Qmp,
    Agent,
    Memory,
    Base,
    Scratch,
    Vmlinux,
    Initramfs,
    /// The first of the taps.
    Tap,
}

impl PassedFile {
    /// Its number in the VMM.
    pub fn number(self) -> i32 {
        FIRST_FD + self as i32
    }

    /// That of the disk below a layered one, which comes after the taps.
    pub fn below(shape: &Shape) -> i32 {
        Self::Tap.number() + shape.nics.count().cast_signed()
    }

    fn path(self) -> String {
        format!("/proc/self/fd/{}", self.number())
    }
}

/// Translated code a VMM keeps, in MiB: what is used of it counts as the bunker's memory.
const TCG_CACHE_MB: u32 = 64;

/// What the line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Writes its memory to the shared file.
    Template,
    /// Maps the file privately and waits for a state to load.
    Clone,
}

/// The arguments after the program's name.
pub fn arguments(
    name: &str,
    shape: &Shape,
    accelerator: Accelerator,
    role: Role,
    is_layered: bool,
    gpus: &[Gpu],
) -> Result<Vec<CString>, NulError> {
    let (share, memory_mb, vcpus) = (role == Role::Template, shape.memory_mb, shape.vcpus);
    let on_off = |on| if on { "on" } else { "off" };
    let mut args: Vec<String> = Vec::new();
    let mut add = |parts: &[&str]| args.extend(parts.iter().map(|&part| part.to_owned()));

    // Real devices are on a PCI bus, which the machine has only then.
    let pcie = on_off(!gpus.is_empty());
    let machine = format!("microvm,acpi=on,pcie={pcie},memory-backend=ram0,dump-guest-core=off");
    add(&["-name", name, "-M", &machine]);
    match accelerator {
        Accelerator::Kvm => add(&["-accel", "kvm", "-cpu", "host"]),
        Accelerator::Tcg => {
            let thread = if vcpus > 1 { "multi" } else { "single" };
            add(&["-accel", &format!("tcg,thread={thread},tb-size={TCG_CACHE_MB}")]);
            // With ERMS the guest's kernel copies by `rep movsb`, which tcg does byte by byte:
            // without it copies are three times and clears seven times as fast (measured).
            add(&["-cpu", "max,-erms"]);
        }
    }
    add(&["-m", &format!("{memory_mb}M"), "-smp", &vcpus.to_string()]);
    add(&[
        "-object",
        &format!(
            "memory-backend-file,id=ram0,size={memory_mb}M,mem-path={},share={},prealloc=off",
            PassedFile::Memory.path(),
            on_off(share)
        ),
    ]);
    add(&["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    // The state that is loaded is of devices alone, without the section that this would announce.
    add(&["-global", "migration.send-configuration=off"]);
    add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    add(&["-kernel", &PassedFile::Vmlinux.path(), "-initrd", &PassedFile::Initramfs.path()]);
    add(&["-append", &kernel_command_line(accelerator)]);
    let disk_bytes = format!(",size={}", u64::from(shape.disk_mb) << 20);
    let below = PassedFile::below(shape);
    let (scratch, scratch_size) = match is_layered {
        true => ("qcow2,backing=below", ""),
        false => ("raw", disk_bytes.as_str()),
    };
    for (fd, node, driver, read_only, size) in [
        (PassedFile::Base.number(), BASE_DISK_SERIAL, "raw", true, ""),
        (below, "below", "raw", true, disk_bytes.as_str()),
        (PassedFile::Scratch.number(), SCRATCH_DISK_SERIAL, scratch, false, scratch_size),
    ] {
        if fd == below && !is_layered {
            continue;
        }
        // Not by /proc/self/fd: opening that asks for permission anew, which the jail's uid lacks.
        add(&["-add-fd", &format!("fd={fd},set={fd}")]);
        add(&[
            "-blockdev",
            &format!(
                "driver={driver},node-name={node}{size},read-only={},file.driver=file,file.filename=/dev/fdset/{fd},file.locking=off",
                on_off(read_only)
            ),
        ]);
        if fd == below {
            continue;
        }
        // A full host disk is the guest's I/O error; by default QEMU would stop the guest for ever.
        let errors = "rerror=report,werror=report";
        add(&["-device", &format!("virtio-blk-device,drive={node},serial={node},{errors}")]);
    }
    for index in 0..shape.nics.count() {
        let fd = PassedFile::Tap.number() + index.cast_signed();
        add(&["-netdev", &format!("tap,id=net{index},fd={fd},vhost=off")]);
        // By these the guest knows which is which, until it has addresses of its own.
        let mac = format!("02:5c:00:00:00:{index:02x}");
        add(&["-device", &format!("virtio-net-device,netdev=net{index},mac={mac}")]);
    }
    add(&["-device", "virtio-serial-device"]);
    for (file, id) in [(PassedFile::Agent, "agent"), (PassedFile::Qmp, "qmp")] {
        let fd = file.number();
        add(&["-chardev", &format!("socket,id={id},fd={fd},server=on,wait=off")]);
    }
    add(&["-device", &format!("virtserialport,chardev=agent,name={PORT_NAME},nr=1")]);
    add(&["-mon", "chardev=qmp,mode=control"]);
    for gpu in gpus {
        add(&["-device", &format!("vfio-pci,sysfsdev={}", gpu.sysfs.display())]);
    }
    if role == Role::Clone {
        add(&["-incoming", "defer", "-S"]);
    }
    args.into_iter().map(CString::new).collect()
}

/// `tsc_early_khz`: under tcg the guest's counter ticks at the host's rate, and the guest has
/// nothing to measure it against. `mitigations=off`: emulated code cannot speculate.
fn kernel_command_line(accelerator: Accelerator) -> String {
    let common = "quiet loglevel=0 reboot=t panic=-1";
    match accelerator {
        Accelerator::Kvm => common.to_owned(),
        Accelerator::Tcg => format!(
            "{common} mitigations=off no_timer_check nokaslr tsc=reliable tsc_early_khz={}",
            tsc::host_khz()
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use crate::engine::{DiskStart, Nics};

    #[test]
    fn template_and_clone_differ_only_in_sharing_and_waiting() {
        let shape = Shape {
            image: "busybox".into(),
            vcpus: 1,
            memory_mb: 256,
            disk_mb: 64,
            nics: Nics::Gateway,
            disk: DiskStart::Fresh,
        };
        let line = |role| {
            let args = arguments("vm", &shape, Accelerator::Kvm, role, false, &[]).unwrap();
            args.iter().map(|arg| arg.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let mut clone = line(Role::Clone);
        clone.truncate(clone.len() - 3);
        let clone: Vec<_> = clone.iter().map(|arg| arg.replace("share=off", "share=on")).collect();
        assert_eq!(line(Role::Template), clone);
    }

    #[test]
    fn a_gpu_comes_with_the_bus_that_it_is_on() {
        let shape = Shape {
            image: "busybox".into(),
            vcpus: 1,
            memory_mb: 256,
            disk_mb: 64,
            nics: Nics::None,
            disk: DiskStart::Fresh,
        };
        let gpu = Gpu {
            address: "0000:41:00.0".to_owned(),
            sysfs: "/sys/devices/pci0000:40/0000:41:00.0".into(),
            group: 7,
        };
        let args =
            arguments("vm", &shape, Accelerator::Kvm, Role::Template, false, slice::from_ref(&gpu));
        let args: Vec<_> =
            args.unwrap().into_iter().map(|arg| arg.into_string().unwrap()).collect();
        assert!(args.iter().any(|arg| arg.contains("pcie=on")), "{args:?}");
        let device = "vfio-pci,sysfsdev=/sys/devices/pci0000:40/0000:41:00.0";
        assert!(args.iter().any(|arg| arg == device), "{args:?}");
    }
}
