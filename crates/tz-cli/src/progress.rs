//! A progress bar on standard error, only for a person at a terminal. Owns [`Bar`].

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tz_io::Progress;

use crate::job::Speech;

/// How often the bar is drawn; nobody reads faster.
const TICK: Duration = Duration::from_millis(100);

/// Shows progress until it is dropped.
#[derive(Debug)]
pub(crate) struct Bar {
    drawing: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Bar {
    pub(crate) fn start(
        what: &'static str,
        total_bytes: u64,
        progress: Progress,
        speech: Speech,
    ) -> Self {
        if speech.quiet || speech.json || !std::io::stderr().is_terminal() {
            return Self { drawing: None };
        }
        let done = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&done);
        let start = progress.bytes();
        let draw = move || {
            // Work that is over by the first tick never shows a bar.
            std::thread::park_timeout(TICK);
            let bar = bar(what, total_bytes);
            while !told.load(Ordering::Acquire) {
                bar.set_position(progress.bytes().saturating_sub(start));
                std::thread::park_timeout(TICK);
            }
            bar.finish_and_clear();
        };
        Self { drawing: Some((done, std::thread::spawn(draw))) }
    }
}

fn bar(what: &'static str, total_bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total_bytes), ProgressDrawTarget::stderr());
    let template =
        "{msg} [{wide_bar}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
    // The template is constant and a test parses it; without it the bar would have the default look.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_message(what)
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some((done, thread)) = self.drawing.take() {
            done.store(true, Ordering::Release);
            thread.thread().unpark();
            // The thread only draws: if it panicked, there is nothing to save.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_drawn_for_a_quiet_or_machine_reader() {
        let speech = Speech { json: false, quiet: true, verbose: false };
        assert!(Bar::start("reading", 1, Progress::default(), speech).drawing.is_none());
        let speech = Speech { json: true, quiet: false, verbose: false };
        assert!(Bar::start("reading", 1, Progress::default(), speech).drawing.is_none());
    }

    #[test]
    fn the_template_is_read() {
        let bar = bar("reading", 10);
        bar.set_draw_target(ProgressDrawTarget::hidden());
        bar.set_position(3);
        assert_eq!((bar.position(), bar.length()), (3, Some(10)));
        assert_eq!(bar.message(), "reading");
    }
}
