//! The network between clients and a server, on loopback: a test can stall it or cut it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::{Result, doing};

/// What becomes of what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// It arrives.
    Up,
    /// It is kept until the network is up again: nobody is told.
    Stalled,
    /// Connections are closed, and new ones at once.
    Cut,
}

/// A listener that passes everything on to a server and back, while the network is up.
#[derive(Debug)]
pub struct Proxy(Arc<State>);

#[derive(Debug)]
struct State {
    now: Mutex<Now>,
    changed: Condvar,
}

#[derive(Debug)]
struct Now {
    network: Network,
    /// Both ends of every connection. Those that have ended are forgotten when the next one comes.
    open: Vec<TcpStream>,
    is_over: bool,
}

impl Proxy {
    /// Listens at `at`, for a server that is or will be at `to`.
    ///
    /// # Errors
    /// Where nobody can listen there.
    pub fn start(at: SocketAddr, to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(at).map_err(doing("listening at", at.to_string()))?;
        let now = Now { network: Network::Up, open: Vec::new(), is_over: false };
        let state = Arc::new(State { now: Mutex::new(now), changed: Condvar::new() });
        let own = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if own.lock().is_over {
                    return;
                }
                own.connect(client, to);
            }
        });
        // A listener waits for the next one who comes: when it is over, somebody must.
        let own = Arc::clone(&state);
        thread::spawn(move || {
            let over = own.changed.wait_while(own.lock(), |now| !now.is_over);
            drop(over);
            drop(TcpStream::connect(at));
        });
        Ok(Self(state))
    }

    /// Changes the network.
    pub fn set(&self, network: Network) {
        let mut now = self.0.lock();
        now.network = network;
        if network == Network::Cut {
            now.close();
        }
        self.0.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut now = self.0.lock();
        now.is_over = true;
        now.close();
        self.0.changed.notify_all();
    }
}

impl Now {
    fn close(&mut self) {
        for stream in self.open.drain(..) {
            // One that has ended already cannot be closed.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the network is stalled. True where it is up then.
    fn is_up(&self) -> bool {
        let stalls = |now: &mut Now| now.network == Network::Stalled && !now.is_over;
        let now = self.changed.wait_while(self.lock(), stalls).unwrap_or_else(PoisonError::into_inner);
        now.network == Network::Up && !now.is_over
    }

    fn connect(self: &Arc<Self>, client: TcpStream, to: SocketAddr) {
        let state = Arc::clone(self);
        thread::spawn(move || {
            // Where it is not up, the client's end is dropped, and so closed.
            if !state.is_up() {
                return;
            }
            let Ok(server) = TcpStream::connect(to) else { return };
            let ends = [(client.try_clone(), server.try_clone()), (server.try_clone(), client.try_clone())];
            {
                let mut now = state.lock();
                now.open.retain(|stream| stream.peer_addr().is_ok());
                now.open.extend([client, server]);
            }
            for (from, to) in ends {
                let (Ok(from), Ok(to)) = (from, to) else { continue };
                let state = Arc::clone(&state);
                thread::spawn(move || state.pass(from, to));
            }
        });
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let Some(read) = bytes.get(..count) else { break };
            if !self.is_up() || to.write_all(read).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::ErrorKind;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    /// A server that sends back what it gets.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut &stream).map(drop));
            }
        });
        address
    }

    fn answers(stream: &mut TcpStream, said: &[u8]) -> bool {
        let mut answer = vec![0; said.len()];
        stream.write_all(said).is_ok() && stream.read_exact(&mut answer).is_ok() && answer == said
    }

    #[test]
    fn what_is_sent_arrives_or_waits_or_is_cut() {
        let port = crate::process::free_port(Ipv4Addr::LOCALHOST.into()).unwrap();
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let proxy = Proxy::start(at, echo()).unwrap();
        let mut stream = TcpStream::connect(at).unwrap();
        assert!(answers(&mut stream, b"one"));

        proxy.set(Network::Stalled);
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        stream.write_all(b"two").unwrap();
        let waits = stream.read(&mut [0; 3]).unwrap_err().kind();
        assert!(matches!(waits, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{waits}");
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        proxy.set(Network::Up);
        let mut answer = [0; 3];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"two");

        proxy.set(Network::Cut);
        assert!(!answers(&mut stream, b"three"), "it was cut");
        assert!(!answers(&mut TcpStream::connect(at).unwrap(), b"four"), "new ones are cut as well");
        proxy.set(Network::Up);
        assert!(answers(&mut TcpStream::connect(at).unwrap(), b"five"));
        drop(proxy);
        crate::process::free_port(Ipv4Addr::LOCALHOST.into()).unwrap();
    }
}
