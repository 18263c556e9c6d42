//! A wire that can be cut: bytes between a sidecar and the control plane, until told otherwise.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::clock::spawn;

/// Forwards connections; while it is cut, bytes are kept back and nobody is told.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    cut: watch::Sender<bool>,
    running: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// On a port of its own, to this one.
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (cut, is_cut) = watch::channel(false);
        let running = spawn(async move {
            loop {
                let Ok((near, _)) = listener.accept().await else { continue };
                let is_cut = is_cut.clone();
                spawn(async move {
                    let Ok(far) = TcpStream::connect(server).await else { return };
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    tokio::select! {
                        () = copy(near_in, far_out, is_cut.clone()) => {}
                        () = copy(far_in, near_out, is_cut) => {}
                    }
                });
            }
        });
        Self { address, cut, running }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on nothing passes, in either direction.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// From now on all passes, what was kept back first.
    pub(crate) fn mend(&self) {
        self.cut.send_replace(false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut is_cut: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        if is_cut.wait_for(|cut| !cut).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
