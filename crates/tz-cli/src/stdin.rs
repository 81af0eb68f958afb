//! Standard input that can be interrupted, and says where it ended. Owns [`Stdin`].

use std::io::{self, Read};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tz_io::Cancel;

/// How long a read may wait before it looks at the flag again: short for a person, long for a processor.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// A pipe of the default 64 KiB makes writer and reader take turns; most systems allow this much to everyone.
const PIPE_BYTES: usize = 1 << 20;

/// Bytes of a pipe or file that is read front to back.
#[derive(Debug)]
pub(crate) struct Stdin<F> {
    file: F,
    cancel: Cancel,
    position: u64,
}

impl<F: AsFd> Stdin<F> {
    pub(crate) fn new(file: F, cancel: Cancel) -> Self {
        // A wish: what is no pipe, or may not grow, stays as it is.
        let _ = rustix::pipe::fcntl_setpipe_size(&file, PIPE_BYTES);
        Self { file, cancel, position: 0 }
    }
}

impl<F: AsFd + Read> Read for Stdin<F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = loop {
            if self.cancel.is_cancelled() {
                return Err(io::Error::other("cancelled"));
            }
            let mut fds = [PollFd::new(&self.file, PollFlags::IN)];
            match poll(&mut fds, Some(&WAIT)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => match self.file.read(buf) {
                    // Another reader was quicker.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => break read?,
                },
                Err(errno) => return Err(errno.into()),
            }
        };
        if read == 0 && !buf.is_empty() {
            // Nobody reads beyond what the front of the file announces, so this end is always early.
            let why = format!("the stream ends early, at offset {}", self.position);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        self.position += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_early_end_names_its_offset() {
        let (reader, mut writer) = io::pipe().unwrap();
        io::Write::write_all(&mut writer, b"abc").unwrap();
        drop(writer);
        let mut stdin = Stdin::new(reader, Cancel::default());
        let mut buf = [0; 2];
        stdin.read_exact(&mut buf).unwrap();
        let error = stdin.read_exact(&mut buf).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(error.to_string(), "the stream ends early, at offset 3");
    }

    #[test]
    fn a_set_flag_ends_a_wait_without_end() {
        let (reader, _writer) = io::pipe().unwrap();
        let cancel = Cancel::default();
        let mut stdin = Stdin::new(reader, cancel.clone());
        cancel.cancel();
        assert!(stdin.read(&mut [0]).is_err());
    }
}
