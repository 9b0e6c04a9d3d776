//! What makes a clone unlike its siblings.

use serde::{Deserialize, Serialize};

use crate::network::GuestNetwork;

/// Bytes of fresh entropy the host gives, at least.
pub const ENTROPY_BYTES: usize = 64;

/// Everything of a clone that must differ from its template and its siblings. The agent applies
/// all of it or fails; the host kills a clone that does not confirm.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// At least [`ENTROPY_BYTES`] bytes, added to the kernel's pool, which is then reseeded.
    pub entropy: Vec<u8>,
    /// Wall clock at the moment of sending, nanoseconds since the Unix epoch.
    pub unix_time_ns: i64,
    pub hostname: String,
    /// 32 lower-case hexadecimal digits.
    pub machine_id: String,
    /// What its devices become; `None` leaves them as they are.
    pub network: Option<GuestNetwork>,
    /// What the kernel's boot id is to read as, of a guest whose kernel may have drawn it before it was
    /// copied.
    #[serde(default)]
    pub boot_id: Option<String>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("hostname", &self.hostname).finish_non_exhaustive()
    }
}

/// The body of `POST /clock`: of a guest that stood still, whose clock did so too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetClock {
    /// Wall clock at the moment of sending, nanoseconds since the Unix epoch.
    pub unix_time_ns: i64,
}

/// The body of `POST /prepare`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    pub identity: Identity,
    /// Commands run once inside the new root before the agent confirms, so that the first real
    /// ones find the loader and their libraries in memory. Their results are ignored.
    pub warm_up: Vec<Vec<String>>,
}
