//! nginx serving one folder, with ranges and entity tags.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{Running, free_port, is_installed, tied};

/// Debian keeps it where only root's path leads.
const PROGRAMS: [&str; 2] = ["nginx", "/usr/sbin/nginx"];

/// A running nginx.
#[derive(Debug)]
pub(crate) struct Nginx {
    running: Running,
    program: PathBuf,
    folder: TempDir,
}

impl Nginx {
    /// Serves `root`; `None` where nginx is not installed.
    pub(crate) fn start(root: &Path) -> Result<Option<Self>> {
        let Some(program) = PROGRAMS.iter().map(PathBuf::from).find(|path| is_installed(path))
        else {
            return Ok(None);
        };
        let folder = tempfile::Builder::new().prefix("tz-nginx-").tempdir()?;
        let root = root.canonicalize().with_context(|| root.display().to_string())?;
        let port = free_port()?;
        // A master started by root would hand the files to an account that cannot read them.
        let user = if fs::metadata(folder.path())?.uid() == 0 { "user root root;" } else { "" };
        let configuration = format!(
            "{user} daemon off; worker_processes 2; pid nginx.pid; error_log stderr warn;\n\
             events {{ worker_connections 256; }}\n\
             http {{\n\
               access_log off; sendfile on; tcp_nopush on; types {{ }}\n\
               client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;\n\
               uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
               server {{\n\
                 listen 127.0.0.1:{port}; root \"{root}\";\n\
                 location /slowly/ {{ alias \"{root}/\"; limit_rate 8m; }}\n\
               }}\n\
             }}\n",
            root = root.display(),
        );
        fs::write(folder.path().join("nginx.conf"), configuration)?;
        let log = folder.path().join("log");
        let mut command = configured(tied(&program), folder.path());
        let running = Running::start("nginx", &mut command, port, &log)?;
        Ok(Some(Self { running, program, folder }))
    }

    /// The URL of a file in the served folder.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.running.address)
    }

    /// The same at 8 MiB/s for each connection: for work that must still be under way when it is
    /// interrupted.
    pub(crate) fn slow_url(&self, name: &str) -> String {
        self.url(&format!("slowly/{name}"))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it only if it is asked; killed, it would leave them behind.
        let mut stop = configured(Command::new(&self.program), self.folder.path());
        let asked = stop.args(["-s", "stop"]).stderr(Stdio::null()).status();
        if asked.is_ok_and(|status| status.success()) {
            let _ = self.running.child.wait();
        }
    }
}

fn configured(mut command: Command, folder: &Path) -> Command {
    command.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf"));
    command
}
