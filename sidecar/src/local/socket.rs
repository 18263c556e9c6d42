//! The agent's socket: its place, who may use it, and what a dead sidecar left there.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Longest path of a socket in bytes; the kernel's limit less its terminator.
const PATH_LIMIT: usize = 107;

/// Why an agent has no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The path does not fit the kernel's address.
    #[error("the socket path {0} has more than {PATH_LIMIT} bytes")]
    TooLong(PathBuf),
    /// Somebody serves there.
    #[error("another process serves {0}")]
    InUse(PathBuf),
    /// The folder or the socket cannot be made.
    #[error("the socket {path} cannot be made")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Listens on `path`, for this user only. A socket nobody serves any more is replaced.
///
/// # Errors
/// See [`BindError`].
pub fn bind(path: &Path) -> Result<UnixListener, BindError> {
    if path.as_os_str().len() > PATH_LIMIT {
        return Err(BindError::TooLong(path.to_owned()));
    }
    if UnixStream::connect(path).is_ok() {
        return Err(BindError::InUse(path.to_owned()));
    }
    bind_private(path).map_err(|source| BindError::Io { path: path.to_owned(), source })
}

fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // Bound under another name and moved, so that it is never there with other rights.
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let new = dir.join(format!(".{stem}"));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    Ok(listener)
}
