//! The bake's helper alone, for tests; otherwise it is a hidden command of `scaibunker`.

use std::process::ExitCode;

fn main() -> ExitCode {
    scaibunker_worker::bake::helper_main()
}
