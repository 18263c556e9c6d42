//! A sidecar's end of its streams: dialling, sending, hearing, and finding that one is over.

use bytes::Bytes;
use hive_proto::sidecar_v1::{self as pb, control_message::Kind, sidecar_message::Kind as Said};
use hive_sidecar::attempt::AttemptKey;
use hive_sidecar::session::{Connection, Input, LinkEnd};
use prost::Message as _;

use crate::network::{Dir, Packet, Stream};
use crate::world::{Event, World};

impl World {
    pub(crate) fn send_up(&mut self, index: usize, connection: Connection, request: pb::SessionRequest) {
        if request.messages.iter().any(|message| matches!(message.kind, Some(Said::Hello(_)))) {
            let side = &mut self.sides[index];
            side.muddled |= std::mem::replace(&mut side.greeting, true);
        }
        let goodbye = |message: &pb::SidecarMessage| matches!(message.kind, Some(Said::Goodbye(_)));
        self.sides[index].left |= request.messages.iter().any(goodbye);
        self.check_told(index, &request);
        let Some((number, stream)) = self.sides[index].link else { return };
        if number == connection && self.streams[stream].client_open {
            let name = self.sides[index].name.clone();
            self.say(|| format!("  ↑ {name} stream {stream}: {}", crate::show::up(&request)));
            self.transmit(stream, Dir::Up, Packet::Frame(request.encode_to_vec().into()));
        }
    }

    /// A dial reaches the server, if it does.
    pub(crate) fn dialled(&mut self, index: usize, connection: Connection) {
        if self.blocked(index, Dir::Up) || self.blocked(index, Dir::Down) {
            return;
        }
        let wait = self.latency();
        let life = self.sides[index].life;
        let mut server = self.control.life;
        match &self.zombie {
            // Whoever dials may still know the old one's address.
            Some(zombie) if !self.control.up || self.rng.chance(400) => {
                if zombie.paused.is_some() {
                    return;
                }
                server = zombie.life;
            }
            _ if !self.control.up => {
                return self.at(self.now + wait, Event::Dialled(index, life, connection, None));
            }
            _ => {}
        }
        self.streams.push(Stream::new(index, connection, server));
        let stream = self.streams.len() - 1;
        self.at(self.now + wait, Event::Dialled(index, life, connection, Some(stream)));
    }

    pub(crate) fn dial_answered(&mut self, index: usize, connection: Connection, stream: Option<usize>) {
        if self.sides[index].journal.connection > connection {
            // Given up for a later dial: what stands now ends at once.
            if let Some(stream) = stream {
                self.streams[stream].client_open = false;
                self.transmit(stream, Dir::Up, Packet::End(LinkEnd::Broken));
            }
            return;
        }
        if self.sides[index].dialling != connection {
            stream.into_iter().for_each(|stream| self.hung_up(stream));
            return;
        }
        let Some(stream) = stream else {
            return self.session(index, Input::DialFailed(connection, LinkEnd::Broken));
        };
        if !self.streams[stream].server_open {
            return self.session(index, Input::DialFailed(connection, LinkEnd::Broken));
        }
        self.sides[index].link = Some((connection, stream));
        (self.sides[index].muddled, self.sides[index].greeting) = (false, false);
        self.session(index, Input::Dialed(connection));
    }

    /// A frame has come for a sidecar.
    pub(crate) fn received(&mut self, stream: usize, bytes: &Bytes) {
        let Stream { side, number, client_open, .. } = self.streams[stream];
        if !client_open {
            return;
        }
        match pb::SessionResponse::decode(bytes.clone()) {
            Ok(frame) => {
                for message in &frame.messages {
                    if let Some(Kind::Welcome(_)) = &message.kind {
                        // One from a process that was replaced tells its successor nothing.
                        self.sides[side].left &= self.streams[stream].server != self.control.life;
                        self.sides[side].greeting = false;
                        self.sides[side].assigned.clear();
                    }
                    if let Some(Kind::Assign(assign)) = &message.kind
                        && let Some(Ok(key)) = assign.attempt.as_ref().map(AttemptKey::try_from)
                    {
                        self.sides[side].assigned.push((assign.number, key));
                    }
                }
                self.session(side, Input::Frame(number, frame));
            }
            Err(error) => self.fail(format!("a frame to a sidecar can't be decoded: {error}")),
        }
    }

    /// A sidecar finds that its stream is over.
    pub(crate) fn lost_stream(&mut self, stream: usize, end: LinkEnd) {
        if !std::mem::replace(&mut self.streams[stream].client_open, false) {
            return;
        }
        let Stream { side, number, .. } = self.streams[stream];
        if self.sides[side].link.is_some_and(|(_, current)| current == stream) {
            self.sides[side].link = None;
            self.session(side, Input::StreamEnded(number, end));
        }
    }

    /// Its stream, if it has one.
    pub(crate) fn stream_of(&self, index: usize) -> Option<usize> {
        self.sides[index].link.map(|(_, stream)| stream)
    }
}
