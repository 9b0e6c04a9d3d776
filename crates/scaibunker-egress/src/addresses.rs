//! Addresses that no bunker reaches, whatever its profile: those of this host, and of networks that
//! are not the public internet.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ipnet::IpNet;

/// How long this host's own addresses are believed to be the same.
const OWN_FOR: Duration = Duration::from_secs(5);

/// The IANA registries of special-purpose addresses
/// (<https://www.iana.org/assignments/iana-ipv4-special-registry>, and the one for IPv6): what is not
/// globally reachable, multicast, and what leads to IPv4 addresses by translation.
const DENIED: [&str; 27] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/9",
    "ff00::/8",
];

/// Decides about addresses.
#[derive(Debug)]
pub struct Addresses {
    denied: Vec<IpNet>,
    /// Networks that are reached although they are among the denied ones; not this host and not the
    /// controllers.
    exempt: Vec<IpNet>,
    controllers: Mutex<HashSet<IpAddr>>,
    own: Mutex<Option<(Instant, HashSet<IpAddr>)>>,
}

/// Why an address is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// It is in a range that bunkers do not reach.
    Range,
    /// It is the worker's.
    Worker,
    /// It is a controller's.
    Controller,
}

impl Denied {
    /// For the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Range => "the address is in a range that bunkers do not reach",
            Self::Worker => "the address is the worker's own",
            Self::Controller => "the address is a controller's",
        }
    }
}

impl Addresses {
    /// All that is denied but `exempt`.
    pub fn new(exempt: Vec<IpNet>) -> Self {
        let denied = DENIED.iter().filter_map(|range| range.parse().ok()).collect();
        Self { denied, exempt, controllers: Mutex::default(), own: Mutex::default() }
    }

    /// Replaces the controllers' addresses.
    pub fn set_controllers(&self, controllers: HashSet<IpAddr>) {
        *self.controllers.lock().unwrap_or_else(PoisonError::into_inner) = controllers;
    }

    /// Refuses what must not be connected to. To be asked right before connecting, about the very
    /// address that is connected to.
    pub fn check(&self, address: IpAddr) -> Result<(), Denied> {
        let address = address.to_canonical();
        if address.is_loopback() || address.is_unspecified() || self.is_own(address) {
            return Err(Denied::Worker);
        }
        if self.controllers.lock().unwrap_or_else(PoisonError::into_inner).contains(&address) {
            return Err(Denied::Controller);
        }
        let is_in = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&address));
        // An exception may be wide; it is never one for the fleet itself.
        if is_in(&self.denied) && !is_in(&self.exempt) { Err(Denied::Range) } else { Ok(()) }
    }

    fn is_own(&self, address: IpAddr) -> bool {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.as_ref().is_none_or(|(at, _)| at.elapsed() > OWN_FOR) {
            *own = own_addresses().map(|addresses| (Instant::now(), addresses));
        }
        // Without a list every address may be this host's.
        own.as_ref().is_none_or(|(_, addresses)| addresses.contains(&address))
    }
}

fn own_addresses() -> Option<HashSet<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs().ok()?;
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    Some(addresses.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str) -> Result<(), Denied> {
        Addresses::new(Vec::new()).check(address.parse().unwrap())
    }

    #[test]
    fn every_range_is_one() {
        assert_eq!(Addresses::new(Vec::new()).denied.len(), DENIED.len());
    }

    #[test]
    fn only_the_public_internet_is_reached() {
        for address in ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert_eq!(check(address), Ok(()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.1.2.3",
            "169.254.169.254",
            "172.31.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2001::1",
            "fd00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(check(address).is_err(), "{address}");
        }
    }

    #[test]
    fn the_fleet_is_not_the_public_internet() {
        let addresses = Addresses::new(vec!["10.7.0.0/16".parse().unwrap()]);
        assert_eq!(addresses.check("10.7.1.1".parse().unwrap()), Ok(()));
        assert_eq!(addresses.check("10.8.1.1".parse().unwrap()), Err(Denied::Range));
        addresses.set_controllers(HashSet::from(["1.1.1.1".parse().unwrap()]));
        assert_eq!(addresses.check("1.1.1.1".parse().unwrap()), Err(Denied::Controller));
        *addresses.own.lock().unwrap() =
            Some((Instant::now(), HashSet::from(["1.1.1.2".parse().unwrap()])));
        assert_eq!(addresses.check("::ffff:1.1.1.2".parse().unwrap()), Err(Denied::Worker));
        assert_eq!(addresses.check("1.1.1.3".parse().unwrap()), Ok(()));
        // Whatever is excepted.
        let addresses = Addresses::new(vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]);
        addresses.set_controllers(HashSet::from(["10.0.0.1".parse().unwrap()]));
        for (address, expected) in [
            ("10.0.0.1", Err(Denied::Controller)),
            ("10.0.0.2", Ok(())),
            ("127.0.0.2", Err(Denied::Worker)),
            ("::1", Err(Denied::Worker)),
            ("::ffff:127.0.0.1", Err(Denied::Worker)),
            ("0.0.0.0", Err(Denied::Worker)),
        ] {
            assert_eq!(addresses.check(address.parse().unwrap()), expected, "{address}");
        }
    }
}
