//! Error codes that clients branch on, and the body that carries them.

use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:ident;)*) => {
        /// The stable name of a failure; the HTTP status follows from it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl ErrorCode {
            /// Every code there is, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as it appears on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Reads what [`Self::as_str`] wrote.
            #[must_use]
            pub fn from_text(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)* _ => None }
            }

            /// The HTTP status an answer with this code has.
            #[must_use]
            pub fn http_status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }
        }
    };
}

error_codes! {
    /// The body, query or path does not have the documented shape.
    ValidationError = "VALIDATION_ERROR", UNPROCESSABLE_ENTITY;
    /// The body is not JSON at all, or too large to be read.
    BadRequest = "BAD_REQUEST", BAD_REQUEST;
    /// No credential, or one that is not accepted.
    Unauthorized = "UNAUTHORIZED", UNAUTHORIZED;
    /// A known caller without the permission the call needs.
    Forbidden = "FORBIDDEN", FORBIDDEN;
    /// No such route, or an object the caller cannot see.
    NotFound = "NOT_FOUND", NOT_FOUND;
    /// The route exists, but not with this method.
    MethodNotAllowed = "METHOD_NOT_ALLOWED", METHOD_NOT_ALLOWED;
    /// The body is larger than the route takes.
    PayloadTooLarge = "PAYLOAD_TOO_LARGE", PAYLOAD_TOO_LARGE;
    /// More than a file call takes in one piece; the message names the calls for large files.
    FileTooLarge = "FILE_TOO_LARGE", PAYLOAD_TOO_LARGE;
    /// No such file or directory in the bunker.
    FileNotFound = "FILE_NOT_FOUND", NOT_FOUND;
    /// The target exists already.
    FileExists = "FILE_EXISTS", CONFLICT;
    /// A directory where a file was expected.
    IsADirectory = "IS_A_DIRECTORY", BAD_REQUEST;
    /// A file where a directory was expected.
    NotADirectory = "NOT_A_DIRECTORY", BAD_REQUEST;
    /// The directory has entries; `recursive` removes those too.
    DirectoryNotEmpty = "DIRECTORY_NOT_EMPTY", CONFLICT;
    /// A device, pipe or socket where a file was expected.
    NotARegularFile = "NOT_A_REGULAR_FILE", BAD_REQUEST;
    /// The user in the bunker that the call acts as may not do this.
    FileAccessDenied = "FILE_ACCESS_DENIED", FORBIDDEN;
    /// The path is on a read-only file system, or one that takes no files.
    ReadOnlyPath = "READ_ONLY_PATH", CONFLICT;
    /// The bunker's disk is full.
    NoSpace = "NO_SPACE", INSUFFICIENT_STORAGE;
    /// Too many symbolic links on the way.
    SymlinkLoop = "SYMLINK_LOOP", BAD_REQUEST;
    /// The path, or a name in it, is longer than the file system takes.
    NameTooLong = "NAME_TOO_LONG", BAD_REQUEST;
    /// In use, such as a mount point.
    FileBusy = "FILE_BUSY", CONFLICT;
    /// The byte range starts behind the end of the file.
    RangeNotSatisfiable = "RANGE_NOT_SATISFIABLE", RANGE_NOT_SATISFIABLE;
    /// The bunker could not do what was asked of its files.
    FileFailed = "FILE_FAILED", BAD_GATEWAY;
    /// Nothing was uploaded under this key, or it was committed or has expired.
    UploadNotFound = "UPLOAD_NOT_FOUND", NOT_FOUND;
    /// The bunker knows no such command, or has forgotten it.
    ExecNotFound = "EXEC_NOT_FOUND", NOT_FOUND;
    /// The command has ended already.
    ExecEnded = "EXEC_ENDED", CONFLICT;
    /// The command's standard input has been closed.
    StdinClosed = "STDIN_CLOSED", CONFLICT;
    /// Another client has taken the shell over.
    ShellTakenOver = "SHELL_TAKEN_OVER", CONFLICT;
    /// The image does not exist for this caller.
    ImageNotFound = "IMAGE_NOT_FOUND", NOT_FOUND;
    /// The network profile is not available to this caller.
    NetworkProfileDenied = "NETWORK_PROFILE_DENIED", FORBIDDEN;
    /// The lifecycle mode is not available to this caller.
    LifecycleModeDenied = "LIFECYCLE_MODE_DENIED", FORBIDDEN;
    /// `interfaces` given with a profile other than `transit`.
    InterfacesNotAllowed = "INTERFACES_NOT_ALLOWED", UNPROCESSABLE_ENTITY;
    /// `transit` without `interfaces`.
    TransitMissingInterfaces = "TRANSIT_MISSING_INTERFACES", UNPROCESSABLE_ENTITY;
    /// The allowlist is missing, empty or has an entry that is not a host name.
    AllowlistInvalid = "ALLOWLIST_INVALID", UNPROCESSABLE_ENTITY;
    /// No worker has the bridges that a `transit` bunker names.
    BridgeNotFound = "BRIDGE_NOT_FOUND", UNPROCESSABLE_ENTITY;
    /// Some quota that applies to the caller would be exceeded; `details` have its profile, bucket,
    /// resource, current, cap and what was requested.
    BunkerQuotaExceeded = "BUNKER_QUOTA_EXCEEDED", TOO_MANY_REQUESTS;
    /// The snapshot is still being made, or failed.
    SnapshotNotReady = "SNAPSHOT_NOT_READY", CONFLICT;
    /// What was stored of a snapshot is not what was written; the message says where.
    SnapshotDamaged = "SNAPSHOT_DAMAGED", CONFLICT;
    /// The bunker has something that no copy of it can have, such as GPUs.
    CannotBeCopied = "CANNOT_BE_COPIED", CONFLICT;
    /// The name, subject or membership exists already.
    AlreadyExists = "ALREADY_EXISTS", CONFLICT;
    /// Other objects still depend on it; the message names them.
    InUse = "IN_USE", CONFLICT;
    /// No worker has enough of some resource free.
    WorkerUnavailable = "WORKER_UNAVAILABLE", SERVICE_UNAVAILABLE;
    /// No eligible worker has the image ready.
    NoSuitableWorker = "NO_SUITABLE_WORKER", SERVICE_UNAVAILABLE;
    /// The worker could not start the microVM.
    ProvisioningFailed = "PROVISIONING_FAILED", BAD_GATEWAY;
    /// The bunker is not in the state `running`.
    BunkerNotRunning = "BUNKER_NOT_RUNNING", CONFLICT;
    /// The bunker is at work, and would have to stand still for this.
    BunkerBusy = "BUNKER_BUSY", CONFLICT;
    /// The bunker died while the request was under way.
    BunkerLost = "BUNKER_LOST", BAD_GATEWAY;
    /// The bunker runs, but could not start the command.
    ExecFailed = "EXEC_FAILED", BAD_GATEWAY;
    /// The `Idempotency-Key` was used before with another body.
    IdempotencyConflict = "IDEMPOTENCY_CONFLICT", CONFLICT;
    /// The worker and controller speak different protocol versions.
    ProtocolMismatch = "PROTOCOL_MISMATCH", CONFLICT;
    /// A bound of the service was reached; trying again later can succeed.
    RateLimited = "RATE_LIMITED", TOO_MANY_REQUESTS;
    /// A dependency of the process does not answer; `details` name it.
    NotReady = "NOT_READY", SERVICE_UNAVAILABLE;
    /// The process is shutting down.
    ShuttingDown = "SHUTTING_DOWN", SERVICE_UNAVAILABLE;
    /// A bug or a broken dependency; the log has the cause under the request id.
    Internal = "INTERNAL", INTERNAL_SERVER_ERROR;
}

/// An error and all its causes on one line, for logs and reasons.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorDetail {
    pub field: String,
    pub message: String,
}

/// The `error` member of an error envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct ErrorBody {
    pub code: ErrorCode,
    /// Names the cause and the next step.
    pub message: String,
    /// Seconds after which the same call may succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<ErrorDetail>,
}

impl ErrorBody {
    /// An error without details.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None, details: Vec::new() }
    }

    /// A [`ErrorCode::ValidationError`] about one field.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        let (field, message) = (field.into(), message.into());
        Self {
            code: ErrorCode::ValidationError,
            message: format!("`{field}`: {message}"),
            retry_after: None,
            details: vec![ErrorDetail { field, message }],
        }
    }
}
