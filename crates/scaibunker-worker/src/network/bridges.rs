//! The host's bridges that bunkers may be attached to.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    interface::is_interface_name,
    worker::MakeBridge,
};

use serde::Deserialize;

use super::namespace::{NetworkError, failed, run};
use crate::{assets::program::IP, chain};

/// The host itself is not on the bridges that are made here. Without these it would answer for all of its
/// addresses there, and forward what it is sent.
const NOT_ON_BRIDGES: [(&str, &str, &str); 4] = [
    ("ipv6", "disable_ipv6", "1"),
    ("ipv4", "rp_filter", "1"),
    ("ipv4", "arp_ignore", "8"),
    ("ipv4", "forwarding", "0"),
];

/// The bridges that this worker has made, written down so that they are there again after the host
/// has started anew. Bridges that the host had already are used and left as they are.
#[derive(Debug)]
pub struct Bridges {
    file: PathBuf,
    made: Mutex<BTreeMap<String, MakeBridge>>,
}

impl Bridges {
    /// Those that are written down in `file`, made where they are missing.
    pub fn restore(file: PathBuf) -> Result<Self, NetworkError> {
        let made: BTreeMap<String, MakeBridge> = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| failed("read the list of bridges")(io::Error::from(error)))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(failed("read the list of bridges")(error)),
        };
        for (name, bridge) in &made {
            if Device::find(name)?.is_none() {
                make(name, *bridge)?;
            }
        }
        Ok(Self { file, made: Mutex::new(made) })
    }

    fn made(&self) -> MutexGuard<'_, BTreeMap<String, MakeBridge>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a bridge, unless the host has it. Blocks for some milliseconds.
    pub fn ensure(&self, name: &str, bridge: MakeBridge) -> Result<(), ErrorBody> {
        if !is_interface_name(name) {
            return Err(ErrorBody::invalid("name", "is not the name of a network device"));
        }
        match Device::find(name).map_err(|error| internal(&error))? {
            Some(device) if device.is_bridge() => return Ok(()),
            Some(_) => {
                let message =
                    format!("the worker has a network device `{name}`, which is no bridge");
                return Err(ErrorBody::invalid("name", message));
            }
            None => {}
        }
        let mut made = self.made();
        let mut next = made.clone();
        next.insert(name.to_owned(), bridge);
        // Written down first: what is made is found again.
        self.write(&next).and_then(|()| make(name, bridge)).map_err(|error| internal(&error))?;
        *made = next;
        Ok(())
    }

    /// Removes a bridge that was made here; any other stays. Blocks for some milliseconds.
    pub fn remove(&self, name: &str) -> Result<(), ErrorBody> {
        let mut made = self.made();
        let mut next = made.clone();
        if next.remove(name).is_none() {
            return Ok(());
        }
        let removed = Device::find(name).and_then(|found| match found {
            Some(device) if device.is_bridge() => {
                let line = format!("link delete dev {name} type bridge\n");
                run(IP, &["-batch", "-"], &line).map(drop)
            }
            _ => Ok(()),
        });
        removed.and_then(|()| self.write(&next)).map_err(|error| internal(&error))?;
        *made = next;
        Ok(())
    }

    fn write(&self, made: &BTreeMap<String, MakeBridge>) -> Result<(), NetworkError> {
        let part = self.file.with_extension("next");
        let written = serde_json::to_vec(made).map_err(io::Error::from).and_then(|bytes| {
            fs::write(&part, bytes)?;
            fs::File::open(&part)?.sync_all()?;
            fs::rename(&part, &self.file)
        });
        written.map_err(failed("write the list of bridges"))
    }
}

fn internal(error: &NetworkError) -> ErrorBody {
    let message = format!("the worker cannot change its bridges: {}", chain(error));
    ErrorBody::new(ErrorCode::ProvisioningFailed, message)
}

fn make(name: &str, bridge: MakeBridge) -> Result<(), NetworkError> {
    let mtu = bridge.mtu.map_or_else(String::new, |mtu| format!(" mtu {mtu}"));
    run(IP, &["-batch", "-"], &format!("link add name {name}{mtu} type bridge\n"))?;
    for (protocol, setting, value) in NOT_ON_BRIDGES {
        match fs::write(format!("/proc/sys/net/{protocol}/conf/{name}/{setting}"), value) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            written => written.map_err(failed("keep the host off a bridge"))?,
        }
    }
    run(IP, &["-batch", "-"], &format!("link set dev {name} up\n")).map(drop)
}

/// A network device of this host.
#[derive(Debug, Deserialize)]
pub struct Device {
    ifname: String,
    pub mtu: u32,
    linkinfo: Option<LinkInfo>,
}

#[derive(Debug, Deserialize)]
struct LinkInfo {
    info_kind: Option<String>,
}

impl Device {
    /// The device of that name. `/sys/class/net` would show those of whoever mounted it.
    pub fn find(name: &str) -> Result<Option<Self>, NetworkError> {
        let listed = run(IP, &["-json", "-details", "link", "show"], "")?;
        let devices: Vec<Self> = serde_json::from_slice(&listed)
            .map_err(|error| failed("read the list of network devices")(io::Error::from(error)))?;
        Ok(devices.into_iter().find(|device| device.ifname == name))
    }

    pub fn is_bridge(&self) -> bool {
        let kind = self.linkinfo.as_ref().and_then(|info| info.info_kind.as_deref());
        kind == Some("bridge")
    }
}
