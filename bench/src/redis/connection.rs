//! The protocol of Redis (RESP2), as far as `SET` and `GET` need it.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

/// Longest time for a connection, and for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Largest value that is accepted, in bytes.
const VALUE_BYTES_MAX: usize = 64 << 20;

/// What the server answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// A line.
    Simple(String),
    /// A value, or none.
    Value(Option<Vec<u8>>),
}

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::with_capacity(256 << 10, stream),
        })
    }

    /// Sends commands without waiting for their answers.
    pub(super) async fn send(&mut self, commands: &[&[&[u8]]]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for command in commands {
            bytes.extend(format!("*{}\r\n", command.len()).bytes());
            for part in *command {
                bytes.extend(format!("${}\r\n", part.len()).bytes());
                bytes.extend_from_slice(part);
                bytes.extend_from_slice(b"\r\n");
            }
        }
        tokio::time::timeout(PATIENCE, self.stream.get_mut().write_all(&bytes)).await?
    }

    /// The next answer; an error of the server is an error.
    pub(super) async fn receive(&mut self) -> io::Result<Reply> {
        tokio::time::timeout(PATIENCE, self.receive_slowly()).await?
    }

    async fn receive_slowly(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| strange(line))?;
        match kind {
            "+" | ":" => Ok(Reply::Simple(rest.to_owned())),
            "$" if rest == "-1" => Ok(Reply::Value(None)),
            "$" => {
                let len: usize = rest.parse().map_err(|_| strange(line))?;
                if len > VALUE_BYTES_MAX {
                    return Err(strange(line));
                }
                let mut value = vec![0; len + 2];
                self.stream.read_exact(&mut value).await?;
                value.truncate(len);
                Ok(Reply::Value(Some(value)))
            }
            _ => Err(io::Error::other(format!("the server says {line:?}"))),
        }
    }

    /// Sets one value.
    pub(super) async fn set(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.send(&[&[b"SET", key, value]]).await?;
        match self.receive().await? {
            Reply::Simple(line) if line == "OK" => Ok(()),
            reply => Err(io::Error::other(format!("SET was answered with {reply:?}"))),
        }
    }
}

fn strange(line: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("not an answer of Redis: {line:?}"),
    )
}
