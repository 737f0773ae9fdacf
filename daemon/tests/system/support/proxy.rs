//! A door to the real S3 server that can be shut in different ways while it is used.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;

/// What the door does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// Lets everything through.
    Open,
    /// Nobody listens.
    Refuses,
    /// Answers that the server is too busy.
    Busy,
    /// Resets connections in the middle of a request's body.
    Resets,
    /// Takes requests and never answers.
    Hangs,
}

/// Bytes of a request that arrive before a reset.
const BYTES_BEFORE_RESET: u64 = 3000;

const BUSY: &str = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code>\
                    <Message>Please reduce your request rate.</Message></Error>";

/// The proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    server: String,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    accepting: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Proxy {
    /// An open door to `server` (HOST:PORT).
    pub(crate) fn to(server: &str) -> Self {
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let mut proxy = Self {
            address,
            server: server.to_owned(),
            connections: Arc::default(),
            accepting: None,
        };
        proxy.set(Door::Open);
        proxy
    }

    /// Its own address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does. All present connections end.
    pub(crate) fn set(&mut self, door: Door) {
        self.stop();
        if door == Door::Refuses {
            return;
        }
        let listener = listen(self.address);
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, connections) = (Arc::clone(&stop), Arc::clone(&self.connections));
        let server = self.server.clone();
        let accepting = std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                if door != Door::Resets {
                    // A socket that is still open somewhere is not reset.
                    lock(&connections).push(client.try_clone().unwrap());
                }
                let (connections, server) = (Arc::clone(&connections), server.clone());
                std::thread::spawn(move || serve(door, client, &server, &connections));
            }
        });
        self.accepting = Some((stop, accepting));
    }

    fn stop(&mut self) {
        if let Some((stop, accepting)) = self.accepting.take() {
            stop.store(true, Ordering::SeqCst);
            drop(TcpStream::connect(self.address));
            accepting.join().unwrap();
        }
        for connection in lock(&self.connections).drain(..) {
            drop(connection.shutdown(Shutdown::Both));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock(connections: &Mutex<Vec<TcpStream>>) -> MutexGuard<'_, Vec<TcpStream>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The port was this process's own a moment ago.
fn listen(address: SocketAddr) -> TcpListener {
    super::eventually("the proxy's port is free", Duration::from_secs(10), || {
        TcpListener::bind(address).ok()
    })
}

/// Errors end the connection, as those of a network do.
fn serve(door: Door, client: TcpStream, server: &str, connections: &Mutex<Vec<TcpStream>>) {
    let _ended = match door {
        Door::Open | Door::Refuses => forward(client, server, connections),
        Door::Busy => be_busy(client),
        Door::Resets => reset(&client),
        Door::Hangs => hang(&client),
    };
}

fn forward(
    mut client: TcpStream,
    server: &str,
    connections: &Mutex<Vec<TcpStream>>,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server)?;
    lock(connections).push(server.try_clone()?);
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    let answering = std::thread::spawn(move || {
        let copied = std::io::copy(&mut from_server, &mut to_client);
        drop(to_client.shutdown(Shutdown::Both));
        copied
    });
    std::io::copy(&mut client, &mut server)?;
    drop(server.shutdown(Shutdown::Write));
    answering.join().unwrap().map(drop)
}

/// Reads requests and answers each with 503.
fn be_busy(client: TcpStream) -> std::io::Result<()> {
    let mut requests = BufReader::new(client.try_clone()?);
    let mut client = client;
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if requests.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if line == "expect: 100-continue" {
                client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
        }
        std::io::copy(&mut (&mut requests).take(length), &mut std::io::sink())?;
        let head = "HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: ";
        client.write_all(format!("{head}{}\r\n\r\n{BUSY}", BUSY.len()).as_bytes())?;
    }
}

fn reset(client: &TcpStream) -> std::io::Result<()> {
    std::io::copy(&mut client.take(BYTES_BEFORE_RESET), &mut std::io::sink())?;
    // Closed with bytes unread, or at once: the peer sees a reset.
    set_socket_linger(client, Some(Duration::ZERO)).map_err(Into::into)
}

fn hang(client: &TcpStream) -> std::io::Result<()> {
    std::io::copy(&mut &*client, &mut std::io::sink()).map(drop)
}
