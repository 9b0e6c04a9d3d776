//! Which network options fit together, and what an allowlist may say.

use std::collections::BTreeSet;

use scaibunker_api::{
    bunker::{CreateBunker, Interface, NetworkProfile},
    error::{ErrorBody, ErrorCode, ErrorDetail},
    host_name::is_host_name,
    interface::{MAX_INTERFACE_NAME_BYTES, is_interface_name, is_unicast_mac},
    permission::Permission,
};

use super::{actor::Actor, violations::Violations};

const MAX_ALLOWLIST_ENTRIES: usize = 256;
const MAX_INTERFACES: usize = 8;

/// Refuses a profile that the caller may not use, and interfaces without their guard.
pub fn authorise(actor: &Actor, request: &CreateBunker) -> Result<(), ErrorBody> {
    let profile = request.network_profile;
    let permission = match profile {
        NetworkProfile::Isolated => return Ok(()),
        NetworkProfile::Registry => Permission::NetworkRegistry,
        NetworkProfile::Allowlisted => Permission::NetworkAllowlisted,
        NetworkProfile::Unrestricted => Permission::NetworkUnrestricted,
        NetworkProfile::Transit => Permission::NetworkTransit,
    };
    let denied = |what: &str, permission: Permission| {
        let key = permission.key();
        let message = format!("{what} needs the permission `{key}`; ask a tenant admin for it");
        Err(ErrorBody::new(ErrorCode::NetworkProfileDenied, message))
    };
    if !actor.may(permission) {
        return denied(&format!("the network profile `{}`", profile.as_str()), permission);
    }
    let mut interfaces = request.interfaces.iter().flatten();
    let is_transparent = interfaces.any(|interface| !interface.spoof_guard);
    if is_transparent && !actor.may(Permission::L2Transparency) {
        return denied("an interface without `spoof_guard`", Permission::L2Transparency);
    }
    Ok(())
}

/// Checks `interfaces` and `network_allowlist` against the profile.
pub fn check_options(request: &CreateBunker) -> Result<(), ErrorBody> {
    check_interfaces(request.network_profile, request.interfaces.as_deref())?;
    check_allowlist(request.network_profile, request.network_allowlist.as_deref())
}

/// Refuses a bunker that may reach everything and is not audited, where the operator wants it to be; and
/// an audit of what the gateway does not see.
pub fn check_audit(request: &CreateBunker, is_required: bool) -> Result<(), ErrorBody> {
    match (request.network_profile, request.egress_audit) {
        (NetworkProfile::Unrestricted, false) if is_required => {
            let message = "must be true: this server audits what `unrestricted` bunkers reach";
            Err(ErrorBody::invalid("egress_audit", message))
        }
        (NetworkProfile::Transit, true) => {
            let message = "sees nothing of bridges; leave it out with `transit`";
            Err(ErrorBody::invalid("egress_audit", message))
        }
        _ => Ok(()),
    }
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
    fn an_audit_may_be_required_where_it_sees_something() {
        let with = |profile, egress_audit| CreateBunker { egress_audit, ..request(profile) };
        let refused = |request, required| check_audit(&request, required).is_err();
        let (unrestricted, transit) = (NetworkProfile::Unrestricted, NetworkProfile::Transit);
        assert!(refused(with(unrestricted, false), true));
        assert!(
            !refused(with(unrestricted, true), true) && !refused(with(unrestricted, false), false)
        );
        assert!(!refused(with(NetworkProfile::Registry, false), true));
        assert!(refused(with(transit, true), false) && !refused(with(transit, false), true));
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
}
