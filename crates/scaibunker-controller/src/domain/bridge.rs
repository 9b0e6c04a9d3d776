//! What a bridge may be.

use scaibunker_api::{
    bridge::CreateBridge,
    error::ErrorBody,
    interface::{MAX_INTERFACE_NAME_BYTES, is_interface_name},
};

use super::violations::Violations;

/// What IPv6 wants at least, and Ethernet cards take at most.
const MTU: std::ops::RangeInclusive<u64> = 1_280..=9_000;

/// Checks the body of a create call.
pub fn check(request: &CreateBridge) -> Result<(), ErrorBody> {
    let mut faults = Violations::default();
    if !is_interface_name(&request.name) || request.name == "lo" {
        let message = format!(
            "must be 1 to {MAX_INTERFACE_NAME_BYTES} letters, digits, `-`, `_` or `.`, and not `lo`"
        );
        faults.add("name", message);
    }
    faults.number("mtu", request.mtu.map(u64::from), MTU);
    faults.into_result()
}

#[cfg(test)]
mod tests {
    use scaibunker_api::ids::WorkerId;

    use super::*;

    #[test]
    fn names_and_sizes_are_bounded() {
        let request = |name: &str, mtu| CreateBridge {
            name: name.to_owned(),
            worker_id: WorkerId::generate(),
            mtu,
        };
        assert!(check(&request("br-lan", None)).is_ok());
        assert!(check(&request("br-lan", Some(1_500))).is_ok());
        let refused = [("lo", None), ("a b", None), ("br", Some(68)), ("br", Some(65_536))];
        for (name, mtu) in refused {
            assert!(check(&request(name, mtu)).is_err(), "{name} {mtu:?}");
        }
    }
}
