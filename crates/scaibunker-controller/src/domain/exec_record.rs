//! What clients see of commands that workers report.

use scaibunker_api::{
    exec::{ExecMode, ExecOutcome, ExecRecord, ExecStatus, MAX_ANSWER_BYTES},
    ids::{BunkerId, ExecId},
    worker::{ExecEnd, ExecReport, ExecState},
};

use super::signal::signal_name;

/// How a command ended, and where the whole of what an answer cuts is.
#[must_use]
pub fn outcome(bunker_id: BunkerId, exec_id: ExecId, end: ExecEnd) -> ExecOutcome {
    let is_cut = |bytes: u64| bytes > MAX_ANSWER_BYTES as u64;
    let (is_stdout_cut, is_stderr_cut) = (is_cut(end.stdout_bytes), is_cut(end.stderr_bytes));
    let reference = |name: String| format!("/storage/output/{bunker_id}/{name}");
    let whole_stdout = end.kept.stdout.filter(|_| is_stdout_cut).map(reference);
    let full_stderr_ref = end.kept.stderr.filter(|_| is_stderr_cut).map(reference);
    let full_output_ref = if is_stdout_cut { whole_stdout } else { full_stderr_ref.clone() };
    let truncated = is_stdout_cut || is_stderr_cut;
    let unsaid = (truncated && full_output_ref.is_none())
        .then(|| "the output of a streamed command is in its stream alone".to_owned());
    ExecOutcome {
        exec_id,
        exit_code: end.exit_code,
        signal: end.signal.map(signal_name),
        timed_out: end.timed_out,
        oom_killed: end.oom_killed,
        truncated,
        full_output_ref,
        full_stderr_ref,
        full_output_error: end.kept.error.filter(|_| truncated).or(unsaid),
        duration_ms: end.duration_ms,
    }
}

/// The outcome for a client that has followed all of the output, so that nothing was cut.
#[must_use]
pub fn followed(outcome: ExecOutcome) -> ExecOutcome {
    ExecOutcome {
        truncated: false,
        full_output_ref: None,
        full_stderr_ref: None,
        full_output_error: None,
        ..outcome
    }
}

/// The record of a command.
#[must_use]
pub fn record(bunker_id: BunkerId, report: ExecReport) -> ExecRecord {
    let exec_id = report.exec_id;
    let (status, outcome, error) = match report.state {
        ExecState::Running => (ExecStatus::Running, None, None),
        ExecState::Exited { end } => {
            let outcome = outcome(bunker_id, exec_id, end);
            // A terminal's output is for its viewer; none of it is ever cut in an answer.
            let is_shell = report.mode == ExecMode::Shell;
            let outcome = if is_shell { followed(outcome) } else { outcome };
            (ExecStatus::Exited, Some(outcome), None)
        }
        ExecState::Failed { error } => (ExecStatus::Failed, None, Some(error)),
    };
    ExecRecord {
        exec_id,
        status,
        mode: report.mode,
        command: report.command,
        pid: report.pid,
        started_at: report.started_at,
        ended_at: report.ended_at,
        next_seq: report.next_seq,
        first_seq: report.first_seq,
        outcome,
        error,
    }
}

#[cfg(test)]
mod tests {
    use scaibunker_api::worker::KeptOutput;

    use super::*;

    const CUT: u64 = MAX_ANSWER_BYTES as u64 + 1;

    fn ended(stdout_bytes: u64, stderr_bytes: u64, kept: KeptOutput) -> ExecOutcome {
        let end = ExecEnd {
            exit_code: 137,
            signal: Some(9),
            timed_out: false,
            oom_killed: true,
            duration_ms: 7,
            stdout_bytes,
            stderr_bytes,
            kept,
        };
        outcome("bnk_00000000000000000000000000".parse().unwrap(), ExecId::generate(), end)
    }

    fn kept(stdout: bool, stderr: bool, error: Option<&str>) -> KeptOutput {
        KeptOutput {
            stdout: stdout.then(|| "x.stdout".to_owned()),
            stderr: stderr.then(|| "x.stderr".to_owned()),
            error: error.map(str::to_owned),
        }
    }

    /// The names in both references.
    fn refs(outcome: &ExecOutcome) -> [Option<&str>; 2] {
        let prefix = "/storage/output/bnk_00000000000000000000000000/";
        [&outcome.full_output_ref, &outcome.full_stderr_ref]
            .map(|reference| reference.as_deref().map(|text| text.strip_prefix(prefix).unwrap()))
    }

    #[test]
    fn the_reference_is_to_what_was_cut() {
        let none = ended(CUT - 1, 0, kept(false, false, None));
        assert!(!none.truncated && none.full_output_error.is_none());
        assert_eq!(refs(&none), [None, None]);
        assert_eq!(none.signal.as_deref(), Some("SIGKILL"));
        let out = ended(CUT, 1, kept(true, false, None));
        assert!(out.truncated);
        assert_eq!(refs(&out), [Some("x.stdout"), None]);
        let error = ended(1, CUT, kept(false, true, None));
        assert_eq!(refs(&error), [Some("x.stderr"), Some("x.stderr")]);
        let both = ended(CUT, CUT, kept(true, true, None));
        assert_eq!(refs(&both), [Some("x.stdout"), Some("x.stderr")]);
    }

    #[test]
    fn what_could_not_be_kept_has_a_reason() {
        let full = ended(CUT, CUT, kept(false, true, Some("the store is full")));
        assert_eq!(refs(&full), [None, Some("x.stderr")]);
        assert_eq!(full.full_output_error.as_deref(), Some("the store is full"));
        let partial = ended(CUT, 0, kept(true, false, Some("only 4 GiB are kept")));
        assert_eq!(refs(&partial), [Some("x.stdout"), None]);
        assert!(partial.full_output_error.is_some());
        let streamed = ended(CUT, 0, kept(false, false, None));
        assert!(streamed.truncated && streamed.full_output_error.is_some());
    }
}
