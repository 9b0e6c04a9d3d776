//! What a call to a guest comes to when it fails.

use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::BunkerId,
};
use scaibunker_guest_protocol::{GuestError, GuestErrorKind};
use tokio::time::timeout;

use crate::{
    bunker_state::BunkerWatch,
    channel::{ChannelError, printable},
    execs::END_LIMIT,
    supervisor::Supervisor,
};

/// The error of a call on files that the guest refused.
pub(super) fn refused(error: &GuestError) -> ErrorBody {
    let code = match error.kind {
        GuestErrorKind::Invalid => ErrorCode::ValidationError,
        GuestErrorKind::Conflict => ErrorCode::BunkerNotRunning,
        GuestErrorKind::NotFound => ErrorCode::FileNotFound,
        GuestErrorKind::Exists => ErrorCode::FileExists,
        GuestErrorKind::IsADirectory => ErrorCode::IsADirectory,
        GuestErrorKind::NotADirectory => ErrorCode::NotADirectory,
        GuestErrorKind::DirectoryNotEmpty => ErrorCode::DirectoryNotEmpty,
        GuestErrorKind::NotARegularFile => ErrorCode::NotARegularFile,
        GuestErrorKind::AccessDenied => ErrorCode::FileAccessDenied,
        GuestErrorKind::ReadOnly => ErrorCode::ReadOnlyPath,
        GuestErrorKind::NoSpace => ErrorCode::NoSpace,
        GuestErrorKind::SymlinkLoop => ErrorCode::SymlinkLoop,
        GuestErrorKind::NameTooLong => ErrorCode::NameTooLong,
        GuestErrorKind::Busy => ErrorCode::FileBusy,
        GuestErrorKind::RangeNotSatisfiable => ErrorCode::RangeNotSatisfiable,
        GuestErrorKind::Failed => ErrorCode::FileFailed,
    };
    ErrorBody::new(code, printable(&error.message))
}

/// The error of a call during which the session broke, or the guest gave the stream up; `failed`
/// is the code for a bunker that goes on all the same.
pub(super) async fn broken(
    supervisor: &Supervisor,
    id: BunkerId,
    error: &ChannelError,
    failed: ErrorCode,
) -> ErrorBody {
    let reason = crate::chain(error);
    let gave_up = matches!(error, ChannelError::Http(error) if error.is_reset());
    if gave_up {
        return ErrorBody::new(failed, format!("bunker {id} gave the call up: {reason}"));
    }
    // The session breaks a moment before the VM's end is known, which is the better reason.
    let Ok(mut bunker) = supervisor.watch(id) else { return lost(id, "deleted") };
    let reason = timeout(END_LIMIT, bunker.ended()).await.unwrap_or(reason);
    lost(id, &reason)
}

/// Returns once the bunker cannot answer a call any more, with the call's error.
pub(super) async fn interrupted(id: BunkerId, mut ending: BunkerWatch) -> ErrorBody {
    let mut pausing = ending.clone();
    tokio::select! {
        reason = ending.ended() => lost(id, &reason),
        () = pausing.paused() => {
            let message = format!(
                "bunker {id} was paused while the call was under way, which may have been carried \
                 out; resume it (POST /bunkers/{id}/resume) and look"
            );
            ErrorBody::new(ErrorCode::BunkerNotRunning, message)
        }
    }
}

/// The error of a call during which the bunker ended.
pub(super) fn lost(id: BunkerId, reason: &str) -> ErrorBody {
    let message = format!("bunker {id} was lost while the call was under way: {reason}");
    ErrorBody::new(ErrorCode::BunkerLost, message)
}
