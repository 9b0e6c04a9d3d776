//! What network interfaces and cards may be called.

/// The kernel's limit on an interface's name, without the terminator.
pub const MAX_INTERFACE_NAME_BYTES: usize = 15;

/// Whether an interface may have that name: letters, digits, `-`, `_` and `.`, of which the last and the
/// first do not begin it.
#[must_use]
pub fn is_interface_name(name: &str) -> bool {
    (1..=MAX_INTERFACE_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !name.starts_with(['-', '.'])
}

/// Whether it is the address of one card, such as `02:00:00:00:00:01`.
#[must_use]
pub fn is_unicast_mac(mac: &str) -> bool {
    let octets: Vec<_> = mac.split(':').collect();
    let is_octet =
        |octet: &&str| octet.len() == 2 && octet.bytes().all(|byte| byte.is_ascii_hexdigit());
    octets.len() == 6
        && octets.iter().all(is_octet)
        && u8::from_str_radix(octets[0], 16).is_ok_and(|first| first & 1 == 0)
        && mac != "00:00:00:00:00:00"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_nothing_that_means_something_elsewhere() {
        for name in ["eth0", "br-lan", "vlan.10", "a", "fifteen-bytes-x"] {
            assert!(is_interface_name(name), "{name}");
        }
        for name in ["", "-a", ".a", "..", "a b", "a\nb", "a/b", "sixteen-bytes-ok", "é"] {
            assert!(!is_interface_name(name), "{name}");
        }
    }

    #[test]
    fn cards_have_six_octets_and_are_one() {
        assert!(is_unicast_mac("02:00:00:00:00:01"));
        for mac in ["01:00:00:00:00:01", "00:00:00:00:00:00", "02:00:00:00:00", "02:00:00:00:00:0g"]
        {
            assert!(!is_unicast_mac(mac), "{mac}");
        }
    }
}
