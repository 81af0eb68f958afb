//! How vLLM is told to use an adapter: the lines that are printed after one was written. The facts are those of
//! docs/LORA.md.

use tz_lora::{ArtifactDir, PACKED_FILE};

/// What it takes to read a packed adapter.
#[derive(Debug, Clone, Copy)]
pub(super) enum Key<'a> {
    None,
    /// A file of a key, which vLLM reads too.
    File(&'a str),
    /// vLLM takes no passphrases.
    Passphrase,
    /// vLLM reads no sealed files.
    Sealed,
}

/// Ranks that a server can reserve memory for.
const SERVER_RANKS: [u64; 8] = [8, 16, 32, 64, 128, 256, 320, 512];

/// The smallest setting that takes the adapter.
fn server_rank(rank: Option<u64>) -> u64 {
    let rank = rank.unwrap_or(0);
    SERVER_RANKS.into_iter().find(|&server| server >= rank).unwrap_or(rank)
}

/// After `lora pack`.
pub(super) fn packed(
    folder: &ArtifactDir,
    rank: Option<u64>,
    has_plain: bool,
    key: Key<'_>,
) -> Vec<String> {
    let mut lines = Vec::new();
    let key = match key {
        Key::Sealed | Key::Passphrase => {
            lines.push(
                "vLLM cannot read it: that takes the compat profile and a key file.".to_owned(),
            );
            None
        }
        Key::File(path) => Some(format!(", \"encryption_keyfile\": {path:?}")),
        Key::None => Some(String::new()),
    };
    let at = super::shown(folder);
    let server = server_rank(rank);
    if let Some(key) = key {
        let uri = format!("{at}/{PACKED_FILE}");
        lines.push(
            "vLLM 0.10 to 0.31, from Python (no flag of the server leads to a packed adapter):"
                .to_owned(),
        );
        lines.push(format!("  LLM(MODEL, enable_lora=True, max_lora_rank={server}, ...)"));
        lines.push(format!(
            "  LoRARequest(\"NAME\", 1, {at:?}, tensorizer_config_dict={{\"tensorizer_uri\": {uri:?}{key}}})"
        ));
        if folder.local().is_none() {
            lines.push("  with credentials in ~/.s3cfg or AWS variables: those in the dict do not reach the tensors".to_owned());
        }
    }
    lines.push("vLLM 0.32 and newer take plain safetensors only:".to_owned());
    match (has_plain, folder.local()) {
        (true, Some(_)) => lines.push(serve(&at, server)),
        _ => {
            lines.push(format!("  tz-cli lora unpack {at} DIR"));
            lines.push(serve("DIR", server));
        }
    }
    lines
}

/// After `lora unpack`.
pub(super) fn plain(folder: &ArtifactDir, rank: Option<u64>) -> Vec<String> {
    // A server loads adapters from its own disk.
    let dir = folder.local().map_or_else(|| "DIR".to_owned(), |path| path.display().to_string());
    vec![serve(&dir, server_rank(rank))]
}

fn serve(dir: &str, rank: u64) -> String {
    format!("  vllm serve MODEL --enable-lora --max-lora-rank {rank} --lora-modules NAME={dir}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_rank_is_the_next_that_it_takes() {
        for (rank, server) in [(1, 8), (8, 8), (16, 16), (17, 32), (300, 320), (600, 600)] {
            assert_eq!(server_rank(Some(rank)), server);
        }
    }

    #[test]
    fn what_vllm_cannot_read_is_said() {
        let folder = ArtifactDir::parse("s3://bucket/a").unwrap();
        let lines = packed(&folder, Some(16), false, Key::Sealed).join("\n");
        assert!(lines.contains("cannot read it") && !lines.contains("LoRARequest"));
        let lines = packed(&folder, Some(16), false, Key::File("k")).join("\n");
        assert!(lines.contains(r#"{"tensorizer_uri": "s3://bucket/a/adapter_model.tensors", "encryption_keyfile": "k"}"#));
        assert!(lines.contains("~/.s3cfg"));
    }
}
