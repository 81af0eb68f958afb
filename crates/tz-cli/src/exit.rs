//! What exit codes mean. Owns [`Exit`] and the one table of them.

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    CheckFailed,
    Usage,
    Io,
    Malformed,
    Key,
    Interrupted,
    Terminated,
}

const TABLE: &[(Exit, u8, &str)] = &[
    (Exit::Done, 0, "done; a reader that closed the pipe early counts as done"),
    (Exit::CheckFailed, 1, "the check said no: `verify` found damage, `diff` found differences"),
    (Exit::Usage, 2, "the command line asks for something that cannot be done"),
    (Exit::Io, 3, "input, output or the network failed"),
    (Exit::Malformed, 4, "the file is malformed, damaged or of an unsupported kind"),
    (Exit::Key, 5, "a key is missing or wrong, or authentication failed"),
    (Exit::Interrupted, 130, "interrupted (SIGINT); nothing half-written is left"),
    (Exit::Terminated, 143, "terminated (SIGTERM); nothing half-written is left"),
];

impl Exit {
    pub(crate) fn code(self) -> u8 {
        let row = TABLE.iter().find(|(exit, ..)| *exit == self);
        row.map_or(u8::MAX, |(_, code, _)| *code)
    }

    /// The table as `--help` and the manual show it.
    pub(crate) fn help() -> String {
        let rows = TABLE.iter().map(|(_, code, meaning)| format!("  {code:>3}  {meaning}"));
        format!("Exit codes:\n{}", rows.collect::<Vec<_>>().join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_contract() {
        let codes = [
            (Exit::Done, 0),
            (Exit::CheckFailed, 1),
            (Exit::Usage, 2),
            (Exit::Io, 3),
            (Exit::Malformed, 4),
            (Exit::Key, 5),
            (Exit::Interrupted, 130),
            (Exit::Terminated, 143),
        ];
        assert_eq!(codes.len(), TABLE.len());
        for (exit, code) in codes {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
    }
}
