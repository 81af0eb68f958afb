//! Settings of Hugging Face ids. Owns [`HubOptions`] and the environment's names.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tz_io::Cancel;
use zeroize::Zeroizing;

use super::error::HubError;

/// Where models are if nobody says otherwise.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// The branch that an id without a revision means.
pub const DEFAULT_REVISION: &str = "main";

/// Longest token file that is read; tokens have some forty characters.
const MAX_TOKEN_LEN: u64 = 4096;

/// Which files of a model are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HubFiles {
    /// Weights, and every small file that a server of the model reads: configuration, tokenizer, templates.
    #[default]
    Model,
    /// `adapter_config.json` and the weights of a PEFT adapter.
    Adapter,
}

/// Bytes of one file that have come so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transfer<'a> {
    /// Its name in the model.
    pub file: &'a str,
    /// Bytes here.
    pub done: u64,
    /// Bytes in all.
    pub len: u64,
}

/// What identifies the user; wiped when dropped, and never shown.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// Takes `text` over, less white space around it.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        let text = Zeroizing::new(text.into());
        Self(Zeroizing::new(text.trim().to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    fn non_empty(self) -> Option<Self> {
        if self.0.is_empty() { None } else { Some(self) }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

type Report = Arc<dyn Fn(Transfer<'_>) + Send + Sync>;

/// How ids are resolved. The default knows no cache and no token; [`from_env`](Self::from_env) is what users expect.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct HubOptions {
    /// The folder with `models--…` in it.
    pub cache: Option<PathBuf>,
    /// The hub's address; [`DEFAULT_ENDPOINT`] if `None`.
    pub endpoint: Option<String>,
    /// Sent to the endpoint, and to no other host that it redirects to.
    pub token: Option<Token>,
    /// Branch, tag or commit; [`DEFAULT_REVISION`] if `None`.
    pub revision: Option<String>,
    /// Only the cache is looked at.
    pub offline: bool,
    /// What is needed of the model.
    pub files: HubFiles,
    /// Stops downloads within 100 ms.
    pub cancel: Cancel,
    /// Longest silence of the hub; 60 s if `None`.
    pub stall_timeout: Option<Duration>,
    /// Times that a request or transfer that failed in passing is tried again; 3 if `None`.
    pub retries: Option<u32>,
    progress: Option<Report>,
}

impl HubOptions {
    /// The settings of `huggingface_hub`: `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH` or the
    /// token that `hf auth login` left, `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// [`HubError::Io`] where a token file exists and cannot be read.
    pub fn from_env() -> Result<Self, HubError> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// As [`from_env`](Self::from_env), from another source of variables.
    ///
    /// # Errors
    /// As there.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let on = |name: &str| {
            let value = set(name).unwrap_or_default().to_ascii_uppercase();
            matches!(value.as_str(), "1" | "ON" | "YES" | "TRUE")
        };
        let tilde = |path: String| match path.strip_prefix("~/") {
            Some(rest) => {
                set("HOME").map_or_else(|| path.clone().into(), |home| Path::new(&home).join(rest))
            }
            None => PathBuf::from(path),
        };
        let home = set("HF_HOME").map(tilde).or_else(|| {
            let caches = set("XDG_CACHE_HOME").map(tilde);
            let caches = caches.or_else(|| Some(Path::new(&set("HOME")?).join(".cache")));
            caches.map(|caches| caches.join("huggingface"))
        });
        let cache = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")).map(tilde);
        let cache = cache.or_else(|| home.as_ref().map(|home| home.join("hub")));
        let token = match set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")) {
            _ if on("HF_HUB_DISABLE_IMPLICIT_TOKEN") => None,
            Some(token) => Token::new(token).non_empty(),
            None => {
                let file = set("HF_TOKEN_PATH").map(tilde);
                match file.or_else(|| home.map(|home| home.join("token"))) {
                    Some(path) => read_token(&path)?,
                    None => None,
                }
            }
        };
        Ok(Self {
            cache,
            endpoint: set("HF_ENDPOINT"),
            token,
            offline: on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE"),
            ..Self::default()
        })
    }

    /// Sets the branch, tag or commit.
    #[must_use]
    pub fn with_revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = Some(revision.into());
        self
    }

    /// Sets what is needed of the model.
    #[must_use]
    pub fn with_files(mut self, files: HubFiles) -> Self {
        self.files = files;
        self
    }

    /// Lets `report` hear of bytes as they come, from the thread that downloads.
    #[must_use]
    pub fn with_progress(mut self, report: impl Fn(Transfer<'_>) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(report));
        self
    }

    pub(super) fn report(&self, file: &str, done: u64, len: u64) {
        if let Some(report) = &self.progress {
            report(Transfer { file, done, len });
        }
    }
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token)
            .field("revision", &self.revision)
            .field("offline", &self.offline)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// The token of a file; none where there is no file.
fn read_token(path: &Path) -> Result<Option<Token>, HubError> {
    use std::io::Read as _;

    let fail = |source| HubError::io(path, "read", source);
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_TOKEN_LEN).read_to_string(&mut text).map_err(fail)?;
    Ok(Token::new(text.as_str()).non_empty())
}
