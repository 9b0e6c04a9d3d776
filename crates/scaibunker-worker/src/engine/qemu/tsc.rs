//! The rate of the host's time stamp counter.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

/// Long enough that reading the clock twice adds less than a millionth.
const WINDOW: Duration = Duration::from_millis(100);

/// Measured once, in kHz; takes a tenth of a second the first time.
pub fn host_khz() -> u64 {
    static KHZ: OnceLock<u64> = OnceLock::new();
    *KHZ.get_or_init(|| {
        let (start, first) = (Instant::now(), counter());
        std::thread::sleep(WINDOW);
        let (elapsed, last) = (start.elapsed(), counter());
        (last.wrapping_sub(first) as f64 / elapsed.as_secs_f64() / 1e3).round() as u64
    })
}

fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { core::arch::x86_64::_rdtsc() }
}
