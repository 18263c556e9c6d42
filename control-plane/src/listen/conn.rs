//! One accepted connection: its bytes, its place among the others, and how it is cut.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::caps::Place;
use super::stream::Stream;
use crate::tls::Who;

/// Who is at the other end; every request of the connection carries it as an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address as we see it.
    pub address: SocketAddr,
    /// Who it is by its certificate.
    pub who: Arc<Who>,
}

/// A connection that has shown its protocol.
pub struct Conn<I> {
    io: Stream<I>,
    peer: Peer,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: Place,
}

impl<I> Conn<I> {
    pub(super) fn new(io: Stream<I>, address: SocketAddr, who: Who, cut: CancellationToken, place: Place) -> Self {
        let cut = Box::pin(cut.cancelled_owned());
        Self { io, peer: Peer { address, who: Arc::new(who) }, cut, _place: place }
    }

    /// The server gives up on this connection, whatever its peer still wants.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        ready!(self.cut.as_mut().poll(cx));
        Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, "cut: the server has stopped"))
    }
}

impl<I> Connected for Conn<I> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Conn<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(error) = this.poll_cut(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Conn<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
