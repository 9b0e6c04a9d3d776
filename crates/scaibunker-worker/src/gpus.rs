//! The host's GPUs, which bunkers get whole: PCI devices that the operator has given to the driver
//! `vfio-pci`. Others are the host's own and stay so.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Classes of PCI devices (`/sys/bus/pci/devices/*/class`) that are display controllers.
const DISPLAY_CLASS: &str = "0x03";
/// Bridges belong to a group without anybody using them.
const BRIDGE_CLASS: &str = "0x06";
const PASSED_ON_DRIVER: &str = "vfio-pci";

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Such as `0000:41:00.0`.
    pub address: String,
    /// Its directory below `/sys/devices`.
    pub sysfs: PathBuf,
    /// What the host can isolate from the rest only as a whole: the number of its IOMMU group.
    pub group: u32,
}

/// All GPUs of the host that may be given away, of one kind.
#[derive(Debug, Default)]
pub struct Gpus {
    kind: Option<String>,
    all: Vec<Gpu>,
    taken: Mutex<BTreeSet<String>>,
}

/// GPUs that one VM has; dropping it gives them back.
#[derive(Debug)]
pub struct GpuLease {
    gpus: Arc<Gpus>,
    own: Vec<Gpu>,
}

/// A PCI device, as the kernel describes it.
struct Device {
    gpu: Gpu,
    class: String,
    /// Maker and model, such as `10de:20b5`.
    model: String,
    is_passed_on: bool,
}

impl Device {
    fn read(dir: &Path) -> io::Result<Self> {
        let text = |name| fs::read_to_string(dir.join(name)).map(|text| text.trim().to_owned());
        let number = |text: String| text.trim_start_matches("0x").to_owned();
        let target = |name| fs::read_link(dir.join(name));
        let last =
            |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let group = last(&target("iommu_group")?);
        let group = group.parse().map_err(io::Error::other)?;
        let driver = target("driver").ok();
        Ok(Self {
            class: text("class")?,
            model: format!("{}:{}", number(text("vendor")?), number(text("device")?)),
            is_passed_on: driver.is_some_and(|driver| last(&driver) == PASSED_ON_DRIVER),
            gpu: Gpu { address: last(dir), sysfs: fs::canonicalize(dir)?, group },
        })
    }
}

impl Gpus {
    /// Looks for them below `sys`, normally `/sys`. `kind` is what callers know them by, else it is
    /// maker and model. Of several models the one with most devices is offered.
    pub fn find(sys: &Path, kind: Option<&str>) -> Self {
        let entries = fs::read_dir(sys.join("bus/pci/devices")).into_iter().flatten().flatten();
        // A device without a group is one that cannot be isolated.
        let devices: Vec<_> =
            entries.filter_map(|entry| Device::read(&entry.path()).ok()).collect();
        let mut models: BTreeMap<&str, Vec<Gpu>> = BTreeMap::new();
        for device in devices.iter().filter(|device| device.class.starts_with(DISPLAY_CLASS)) {
            if let Err(reason) = may_be_given(device, &devices) {
                if device.is_passed_on {
                    tracing::warn!(gpu = device.gpu.address, reason, "a GPU is not offered");
                }
                continue;
            }
            models.entry(&device.model).or_default().push(device.gpu.clone());
        }
        let most = models.iter().max_by_key(|(_, gpus)| gpus.len()).map(|(model, _)| *model);
        let Some(model) = most else { return Self::default() };
        for other in models.keys().filter(|other| **other != model) {
            tracing::warn!(model = other, offered = model, "a worker offers one model of GPU");
        }
        let mut all = models.remove(model).unwrap_or_default();
        all.sort_by(|a, b| a.address.cmp(&b.address));
        Self { kind: Some(kind.unwrap_or(model).to_owned()), all, taken: Mutex::default() }
    }

    /// What callers ask for them by.
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.all.len() as u64
    }

    /// As many as that, unless fewer are free.
    pub fn take(self: &Arc<Self>, count: u32) -> Option<GpuLease> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.all.iter().filter(|gpu| !taken.contains(&gpu.address));
        let own: Vec<_> = free.take(count as usize).cloned().collect();
        if own.len() < count as usize {
            return None;
        }
        taken.extend(own.iter().map(|gpu| gpu.address.clone()));
        Some(GpuLease { gpus: Arc::clone(self), own })
    }

    /// Those that an adopted VM has.
    pub fn take_again(self: &Arc<Self>, addresses: &[String]) -> GpuLease {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.extend(addresses.iter().cloned());
        let own = self.all.iter().filter(|gpu| addresses.contains(&gpu.address));
        GpuLease { gpus: Arc::clone(self), own: own.cloned().collect() }
    }
}

/// A device is isolated with all of its group, so nobody else may use any of that.
fn may_be_given(device: &Device, all: &[Device]) -> Result<(), &'static str> {
    if !device.is_passed_on {
        return Err("its driver is not vfio-pci");
    }
    let mut neighbours = all.iter().filter(|other| {
        other.gpu.group == device.gpu.group && other.gpu.address != device.gpu.address
    });
    if neighbours.clone().any(|other| other.class.starts_with(DISPLAY_CLASS)) {
        return Err("another GPU is in its IOMMU group");
    }
    if neighbours.any(|other| !other.is_passed_on && !other.class.starts_with(BRIDGE_CLASS)) {
        return Err("a device of its IOMMU group has another driver than vfio-pci");
    }
    Ok(())
}

impl GpuLease {
    /// The devices.
    #[must_use]
    pub fn devices(&self) -> &[Gpu] {
        &self.own
    }

    /// Their addresses, for the VM's record.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.own.iter().map(|gpu| gpu.address.clone()).collect()
    }
}

impl Drop for GpuLease {
    fn drop(&mut self) {
        let mut taken = self.gpus.taken.lock().unwrap_or_else(PoisonError::into_inner);
        for gpu in &self.own {
            taken.remove(&gpu.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const DISPLAY: &str = "0x030200";
    const AUDIO: &str = "0x040300";
    const BRIDGE: &str = "0x060400";

    /// A tree like the kernel's: no host with GPUs was at hand.
    struct SysDouble(tempfile::TempDir);

    impl SysDouble {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("bus/pci/devices")).unwrap();
            Self(dir)
        }

        fn device(&self, address: &str, class: &str, model: &str, driver: &str, group: &str) {
            let dir = self.0.path().join("devices/pci0000:40").join(address);
            fs::create_dir_all(&dir).unwrap();
            let (vendor, device) = model.split_once(':').unwrap();
            for (name, text) in [
                ("class", class),
                ("vendor", &format!("0x{vendor}")),
                ("device", &format!("0x{device}")),
            ] {
                fs::write(dir.join(name), format!("{text}\n")).unwrap();
            }
            symlink(format!("../../../bus/pci/drivers/{driver}"), dir.join("driver")).unwrap();
            symlink(format!("../../../kernel/iommu_groups/{group}"), dir.join("iommu_group"))
                .unwrap();
            let link = self.0.path().join("bus/pci/devices").join(address);
            symlink(format!("../../../devices/pci0000:40/{address}"), link).unwrap();
        }

        fn find(&self, kind: Option<&str>) -> Arc<Gpus> {
            Arc::new(Gpus::find(self.0.path(), kind))
        }
    }

    fn addresses(gpus: &Gpus) -> Vec<&str> {
        gpus.all.iter().map(|gpu| gpu.address.as_str()).collect()
    }

    #[test]
    fn a_host_without_gpus_offers_none() {
        let gpus = Gpus::find(Path::new("/nonexistent"), Some("a100"));
        assert_eq!((gpus.count(), gpus.kind()), (0, None));
        assert_eq!(SysDouble::new().find(None).count(), 0);
    }

    #[test]
    fn what_the_operator_gave_away_with_all_of_its_group_is_offered() {
        let sys = SysDouble::new();
        let (a100, other) = ("10de:20b5", "1002:738c");
        sys.device("0000:41:00.0", DISPLAY, a100, "vfio-pci", "7");
        sys.device("0000:41:00.1", AUDIO, "10de:1aef", "vfio-pci", "7");
        sys.device("0000:40:01.0", BRIDGE, "8086:1234", "pcieport", "7");
        sys.device("0000:42:00.0", DISPLAY, a100, "vfio-pci", "8");
        // The host's own, one that shares with a device of the host, two that share, another model.
        sys.device("0000:43:00.0", DISPLAY, a100, "nvidia", "9");
        sys.device("0000:44:00.0", DISPLAY, a100, "vfio-pci", "10");
        sys.device("0000:44:00.1", AUDIO, "10de:1aef", "snd_hda_intel", "10");
        sys.device("0000:45:00.0", DISPLAY, a100, "vfio-pci", "11");
        sys.device("0000:46:00.0", DISPLAY, a100, "vfio-pci", "11");
        sys.device("0000:47:00.0", DISPLAY, other, "vfio-pci", "12");
        let gpus = sys.find(None);
        assert_eq!(addresses(&gpus), ["0000:41:00.0", "0000:42:00.0"]);
        assert_eq!(gpus.kind(), Some(a100));
        assert_eq!(sys.find(Some("a100")).kind(), Some("a100"));
        let first = &gpus.all[0];
        assert_eq!(first.group, 7);
        assert!(first.sysfs.ends_with("devices/pci0000:40/0000:41:00.0"), "{first:?}");
    }

    #[test]
    fn a_gpu_is_one_vms_at_a_time() {
        let sys = SysDouble::new();
        sys.device("0000:41:00.0", DISPLAY, "10de:20b5", "vfio-pci", "7");
        sys.device("0000:42:00.0", DISPLAY, "10de:20b5", "vfio-pci", "8");
        let gpus = sys.find(None);
        let first = gpus.take(1).unwrap();
        assert!(gpus.take(2).is_none());
        let second = gpus.take(1).unwrap();
        assert_ne!(first.addresses(), second.addresses());
        drop(first);
        drop(second);
        let adopted = gpus.take_again(&["0000:42:00.0".to_owned()]);
        assert_eq!(gpus.take(1).unwrap().addresses(), ["0000:41:00.0"]);
        assert!(gpus.take(2).is_none());
        drop(adopted);
        assert!(gpus.take(2).is_some());
    }
}
