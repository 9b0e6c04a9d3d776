//! The bench of a fleet.

use std::process::Command;

use serde_json::Value;

#[test]
fn the_bench_of_a_fleet_measures_and_leaves_nothing() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scaibunker"));
    command.args(["bench", "fleet", "--quick", "--json"]).env_remove("SCAIBUNKER_DATABASE_URL");
    let measured = command.output().unwrap();
    let error = String::from_utf8_lossy(&measured.stderr).into_owned();
    assert!(measured.status.success(), "{error}");
    let report: Value = serde_json::from_slice(&measured.stdout).unwrap();
    let figures = report["figures"].as_array().unwrap();
    assert_eq!(figures.len(), 6, "{report}");
    for figure in figures {
        assert!(figure["values"]["median"].is_number(), "{figure}");
        assert_ne!(figure["succeeded"], 0, "{figure}");
    }
}
