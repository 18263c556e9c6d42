//! A wire that can be cut: bytes between a sidecar and the control plane, until told otherwise.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::clock::spawn;

/// Forwards connections; while a direction is cut, its bytes are kept back and nobody is told.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    up: watch::Sender<bool>,
    down: watch::Sender<bool>,
    /// Counts the times all connections were reset.
    resets: watch::Sender<u64>,
    running: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// On a port of its own, to this one.
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (up, up_cut) = watch::channel(false);
        let (down, down_cut) = watch::channel(false);
        let (resets, reset) = watch::channel(0);
        let running = spawn(async move {
            loop {
                let Ok((near, _)) = listener.accept().await else { continue };
                let (up_cut, down_cut) = (up_cut.clone(), down_cut.clone());
                let mut reset = reset.clone();
                reset.mark_unchanged();
                spawn(async move {
                    let Ok(far) = TcpStream::connect(server).await else { return };
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    tokio::select! {
                        () = copy(near_in, far_out, up_cut) => {}
                        () = copy(far_in, near_out, down_cut) => {}
                        _ = reset.changed() => {}
                    }
                });
            }
        });
        Self { address, up, down, resets, running }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on nothing passes, in either direction.
    pub(crate) fn cut(&self) {
        self.cut_up();
        self.cut_down();
    }

    /// From now on nothing passes to the control plane.
    pub(crate) fn cut_up(&self) {
        self.up.send_replace(true);
    }

    /// From now on nothing passes from the control plane.
    pub(crate) fn cut_down(&self) {
        self.down.send_replace(true);
    }

    /// From now on all passes, what was kept back first.
    pub(crate) fn mend(&self) {
        self.up.send_replace(false);
        self.down.send_replace(false);
    }

    /// Ends all connections there are; new ones are taken.
    pub(crate) fn reset(&self) {
        self.resets.send_modify(|count| *count += 1);
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
