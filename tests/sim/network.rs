//! Connections between sidecars and the control plane as gRPC shows them: frames in order, each
//! direction on its own; a side that can't be reached goes unnoticed until a keepalive; a reset loses
//! what was on its way. Lost and repeated frames are an extra that no transport does.

use std::collections::VecDeque;

use bytes::Bytes;
use hive_core::leader::Connection as Edge;
use hive_sidecar::session::{Connection, LinkEnd};

use crate::options::Doom;
use crate::world::{Event, World};

/// One way's traffic, in order.
#[derive(Debug, Default)]
pub(crate) struct Way {
    queue: VecDeque<Packet>,
    /// When the last one arrives.
    last: u64,
    /// Arrivals that a partition held up.
    held: usize,
}

#[derive(Debug, Clone)]
pub(crate) enum Packet {
    Frame(Bytes),
    End(LinkEnd),
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dir {
    Up,
    Down,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) side: usize,
    pub(crate) number: Connection,
    /// The control plane's process at its other end.
    pub(crate) server: u64,
    /// The server's name for it, once its hello was read.
    pub(crate) edge: Option<Edge>,
    pub(crate) client_open: bool,
    pub(crate) server_open: bool,
    /// The server has ended its half; it still reads.
    pub(crate) answered: bool,
    up: Way,
    down: Way,
}

impl Stream {
    pub(crate) fn new(side: usize, number: Connection, server: u64) -> Self {
        Self {
            side,
            number,
            server,
            edge: None,
            client_open: true,
            server_open: true,
            answered: false,
            up: Way::default(),
            down: Way::default(),
        }
    }

    fn way(&mut self, dir: Dir) -> &mut Way {
        match dir {
            Dir::Up => &mut self.up,
            Dir::Down => &mut self.down,
        }
    }

    pub(crate) fn backlog(&self) -> usize {
        self.down.queue.len()
    }
}

impl World {
    pub(crate) fn latency(&mut self) -> u64 {
        if self.healing { 1 } else { self.rng.between(0, self.options.latency) }
    }

    pub(crate) fn blocked(&self, side: usize, dir: Dir) -> bool {
        match dir {
            Dir::Up => self.sides[side].cut.0,
            Dir::Down => self.sides[side].cut.1,
        }
    }

    pub(crate) fn transmit(&mut self, stream: usize, dir: Dir, packet: Packet) {
        if let Packet::Frame(bytes) = &packet {
            self.digest.bytes(bytes);
        }
        let side = self.streams[stream].side;
        let calm = self.healing && self.doom(side) != Doom::Struck;
        let times = match &packet {
            Packet::Frame(_) if !calm && self.rng.chance(self.options.lost) => {
                self.say(|| format!("  a frame is lost on stream {stream}, {dir:?}"));
                // Not for ever: what only its stream's end repairs is repaired.
                let wait = self.rng.between(1_000, 20_000);
                self.at(self.now + wait, Event::Broken(stream, Dir::Up));
                self.at(self.now + wait, Event::Broken(stream, Dir::Down));
                0
            }
            Packet::Frame(bytes) if !calm && self.rng.chance(self.options.repeated) => {
                if dir == Dir::Up && self.rng.chance(500) {
                    // Out of its order, too: a sidecar's stale word changes nothing.
                    let at = self.now + self.rng.skewed(100, 15_000);
                    self.at(at, Event::Late(stream, bytes.clone()));
                }
                2
            }
            _ => 1,
        };
        for _ in 0..times {
            let at = self.now + self.latency();
            let way = self.streams[stream].way(dir);
            way.last = way.last.max(at);
            let at = way.last;
            way.queue.push_back(packet.clone());
            self.at(at, Event::Arrive(stream, dir));
        }
    }

    /// The next packet of a direction, unless a partition holds it up.
    pub(crate) fn arrive(&mut self, stream: usize, dir: Dir) -> Option<Packet> {
        let side = self.streams[stream].side;
        if self.blocked(side, dir) {
            self.streams[stream].way(dir).held += 1;
            return None;
        }
        self.streams[stream].way(dir).queue.pop_front()
    }

    /// What a partition held up arrives now.
    pub(crate) fn unblock(&mut self, side: usize) {
        for stream in 0..self.streams.len() {
            if self.streams[stream].side != side {
                continue;
            }
            for dir in [Dir::Up, Dir::Down] {
                let held = std::mem::take(&mut self.streams[stream].way(dir).held);
                for _ in 0..held {
                    let at = self.now + self.latency();
                    self.at(at, Event::Arrive(stream, dir));
                }
            }
        }
    }

    /// The stream breaks under both; each learns of it in its own time, if it can at all before its
    /// keepalive. Part of what was on its way is lost.
    pub(crate) fn reset(&mut self, stream: usize) {
        for dir in [Dir::Up, Dir::Down] {
            if self.rng.chance(700) {
                let way = self.streams[stream].way(dir);
                let keep = way.queue.len() / 2;
                way.queue.truncate(keep);
            }
        }
        self.learn(stream, Dir::Up);
        self.learn(stream, Dir::Down);
    }

    /// The receiver of a direction will find that the stream is over: soon if it can be told, else by
    /// its keepalive.
    pub(crate) fn learn(&mut self, stream: usize, dir: Dir) {
        let side = self.streams[stream].side;
        let wait = if self.blocked(side, dir) { self.rng.between(5_000, 15_000) } else { self.latency() };
        self.at(self.now + wait, Event::Broken(stream, dir));
    }

    /// A side stops answering pings: the other gives the stream up in its time, if that lasts.
    pub(crate) fn keepalive(&mut self, stream: usize, dir: Dir) {
        let wait = self.rng.between(10_000, 15_000);
        self.at(self.now + wait, Event::Keepalive(stream, dir));
    }
}
