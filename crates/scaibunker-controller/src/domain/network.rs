//! Which network options fit together, and what an allowlist may say.

use std::collections::BTreeSet;

use scaibunker_api::{
    bunker::{CreateBunker, Interface, NetworkProfile},
    error::{ErrorBody, ErrorCode, ErrorDetail},
    permission::Permission,
};

use super::{actor::Actor, violations::Violations};

const MAX_ALLOWLIST_ENTRIES: usize = 256;
const MAX_INTERFACES: usize = 8;
const MAX_HOST_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;
/// The kernel's limit on an interface's name, without the terminator.
const MAX_INTERFACE_NAME_BYTES: usize = 15;

/// Refuses a profile that the caller may not use.
pub fn authorise(actor: &Actor, profile: NetworkProfile) -> Result<(), ErrorBody> {
    let permission = match profile {
        NetworkProfile::Isolated => return Ok(()),
        NetworkProfile::Registry => Permission::NetworkRegistry,
        NetworkProfile::Allowlisted => Permission::NetworkAllowlisted,
        NetworkProfile::Unrestricted => Permission::NetworkUnrestricted,
        NetworkProfile::Transit => Permission::NetworkTransit,
    };
    if actor.may(permission) {
        return Ok(());
    }
    Err(ErrorBody::new(
        ErrorCode::NetworkProfileDenied,
        format!(
            "the network profile `{}` needs the permission `{}`; ask a tenant admin for it",
            profile.as_str(),
            permission.key()
        ),
    ))
}

/// Checks `interfaces` and `network_allowlist` against the profile.
pub fn check_options(request: &CreateBunker) -> Result<(), ErrorBody> {
    check_interfaces(request.network_profile, request.interfaces.as_deref())?;
    check_allowlist(request.network_profile, request.network_allowlist.as_deref())
}

/// Refuses every profile that this server cannot enforce.
pub fn check_offered(profile: NetworkProfile) -> Result<(), ErrorBody> {
    if profile == NetworkProfile::Isolated {
        return Ok(());
    }
    let message = format!("this server offers only `isolated`, not `{}`", profile.as_str());
    Err(ErrorBody::invalid("network_profile", message))
}

fn check_interfaces(
    profile: NetworkProfile,
    interfaces: Option<&[Interface]>,
) -> Result<(), ErrorBody> {
    match (profile, interfaces) {
        (NetworkProfile::Transit, None | Some([])) => Err(ErrorBody::new(
            ErrorCode::TransitMissingInterfaces,
            "the network profile `transit` needs at least one entry in `interfaces`",
        )),
        (NetworkProfile::Transit, Some(interfaces)) => check_each_interface(interfaces),
        (_, Some(_)) => Err(ErrorBody::new(
            ErrorCode::InterfacesNotAllowed,
            "`interfaces` is only valid with the network profile `transit`; leave it out",
        )),
        (_, None) => Ok(()),
    }
}

fn check_each_interface(interfaces: &[Interface]) -> Result<(), ErrorBody> {
    let mut faults = Violations::default();
    if interfaces.len() > MAX_INTERFACES {
        faults.add("interfaces", format!("at most {MAX_INTERFACES} are taken"));
    }
    let mut names = BTreeSet::new();
    for (index, interface) in interfaces.iter().enumerate() {
        let field = |name: &str| format!("interfaces[{index}].{name}");
        for (name, value) in
            [("if_name", &interface.if_name), ("bridge_name", &interface.bridge_name)]
        {
            if !is_interface_name(value) {
                let message = format!(
                    "must be 1 to {MAX_INTERFACE_NAME_BYTES} letters, digits, `-`, `_` or `.`"
                );
                faults.add(field(name), message);
            }
        }
        if interface.if_name == "lo" || !names.insert(&interface.if_name) {
            faults.add(field("if_name"), "is already taken in the bunker");
        }
        if interface.mac.as_deref().is_some_and(|mac| !is_unicast_mac(mac)) {
            faults.add(field("mac"), "must be a unicast address such as 02:00:00:00:00:01");
        }
    }
    faults.into_result()
}

fn is_interface_name(name: &str) -> bool {
    (1..=MAX_INTERFACE_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !name.starts_with(['-', '.'])
}

fn is_unicast_mac(mac: &str) -> bool {
    let octets: Vec<_> = mac.split(':').collect();
    let is_octet =
        |octet: &&str| octet.len() == 2 && octet.bytes().all(|byte| byte.is_ascii_hexdigit());
    octets.len() == 6
        && octets.iter().all(is_octet)
        && u8::from_str_radix(octets[0], 16).is_ok_and(|first| first & 1 == 0)
        && mac != "00:00:00:00:00:00"
}

fn check_allowlist(profile: NetworkProfile, allowlist: Option<&[String]>) -> Result<(), ErrorBody> {
    let refuse = |field: String, message: &str| {
        Err(ErrorBody {
            code: ErrorCode::AllowlistInvalid,
            message: format!("`{field}`: {message}"),
            retry_after: None,
            details: vec![ErrorDetail { field, message: message.to_owned() }],
        })
    };
    let whole = || "network_allowlist".to_owned();
    match (profile, allowlist) {
        (NetworkProfile::Allowlisted, None | Some([])) => {
            refuse(whole(), "the network profile `allowlisted` needs at least one host name")
        }
        (NetworkProfile::Allowlisted, Some(entries)) if entries.len() > MAX_ALLOWLIST_ENTRIES => {
            refuse(whole(), "at most 256 host names are taken")
        }
        (NetworkProfile::Allowlisted, Some(entries)) => {
            match entries.iter().position(|entry| !is_allowlist_entry(entry)) {
                None => Ok(()),
                Some(index) => refuse(
                    format!("network_allowlist[{index}]"),
                    "must be a plain host name or *.domain.tld, without scheme, port, path, \
                     address or trailing dot",
                ),
            }
        }
        (_, Some(_)) => {
            refuse(whole(), "is only valid with the network profile `allowlisted`; leave it out")
        }
        (_, None) => Ok(()),
    }
}

/// A plain host name, or `*.` before one of at least two labels.
#[must_use]
pub fn is_allowlist_entry(entry: &str) -> bool {
    match entry.strip_prefix("*.") {
        Some(domain) => domain.contains('.') && is_host_name(domain),
        None => is_host_name(entry),
    }
}

fn is_host_name(name: &str) -> bool {
    name.len() <= MAX_HOST_BYTES
        && name.split('.').all(is_label)
        && name.rsplit('.').next().is_some_and(|last| !is_numeric(last))
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL_BYTES).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A name that ends in a number is an IPv4 address to many resolvers, whatever comes before it.
fn is_numeric(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|byte| byte.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_wildcards_are_told_from_everything_else() {
        for entry in
            ["example.com", "a.b.example.com", "*.example.com", "intranet", "x-1.Example.ORG"]
        {
            assert!(is_allowlist_entry(entry), "{entry}");
        }
        for entry in [
            "",
            "*",
            "*.",
            "*.com",
            "*.*.example.com",
            "foo*.example.com",
            "a.*.com",
            "example.com.",
            "https://example.com",
            "example.com/x",
            "example.com:443",
            "1.2.3.4",
            "0x7f.0x1",
            "127.1",
            "[::1]",
            "::1",
            "-a.com",
            "a-.com",
            "a..com",
            "exämple.com",
            "a b",
            "user@x.com",
        ] {
            assert!(!is_allowlist_entry(entry), "{entry}");
        }
    }

    proptest! {
        #[test]
        fn no_entry_panics_or_lets_a_separator_in(entry in ".{0,40}") {
            if is_allowlist_entry(&entry) {
                prop_assert!(!entry.contains(['/', ':', '@', ' ', '\0']));
            }
        }
    }

    fn request(profile: NetworkProfile) -> CreateBunker {
        CreateBunker { network_profile: profile, ..CreateBunker::default() }
    }

    fn code(request: &CreateBunker) -> Option<ErrorCode> {
        check_options(request).err().map(|error| error.code)
    }

    #[test]
    fn interfaces_belong_to_transit() {
        let eth0 = Interface {
            if_name: "eth0".to_owned(),
            bridge_name: "br0".to_owned(),
            spoof_guard: true,
            mac: None,
        };
        let with = |profile, interfaces: &[Interface]| CreateBunker {
            interfaces: Some(interfaces.to_vec()),
            ..request(profile)
        };
        let transit = NetworkProfile::Transit;
        assert_eq!(code(&request(transit)), Some(ErrorCode::TransitMissingInterfaces));
        assert_eq!(code(&with(transit, &[])), Some(ErrorCode::TransitMissingInterfaces));
        assert_eq!(code(&with(transit, std::slice::from_ref(&eth0))), None);
        assert_eq!(
            code(&with(NetworkProfile::Isolated, &[])),
            Some(ErrorCode::InterfacesNotAllowed)
        );
        let twice = with(transit, &[eth0.clone(), eth0.clone()]);
        assert_eq!(code(&twice), Some(ErrorCode::ValidationError));
        let multicast = Interface { mac: Some("01:00:00:00:00:01".to_owned()), ..eth0 };
        assert_eq!(code(&with(transit, &[multicast])), Some(ErrorCode::ValidationError));
    }

    #[test]
    fn an_allowlist_belongs_to_allowlisted() {
        let with = |profile, entries: &[&str]| CreateBunker {
            network_allowlist: Some(entries.iter().map(ToString::to_string).collect()),
            ..request(profile)
        };
        let allowlisted = NetworkProfile::Allowlisted;
        assert_eq!(code(&request(allowlisted)), Some(ErrorCode::AllowlistInvalid));
        assert_eq!(code(&with(allowlisted, &[])), Some(ErrorCode::AllowlistInvalid));
        assert_eq!(code(&with(allowlisted, &["1.1.1.1"])), Some(ErrorCode::AllowlistInvalid));
        assert_eq!(code(&with(allowlisted, &["*.example.com"])), None);
        let isolated = with(NetworkProfile::Isolated, &["example.com"]);
        assert_eq!(code(&isolated), Some(ErrorCode::AllowlistInvalid));
    }

    #[test]
    fn only_isolated_is_offered() {
        assert!(check_offered(NetworkProfile::Isolated).is_ok());
        let error = check_offered(NetworkProfile::Registry).unwrap_err();
        assert_eq!(error.code, ErrorCode::ValidationError);
        assert!(error.message.contains("isolated"));
    }
}
