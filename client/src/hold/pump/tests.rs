//! Contracts of a pump, over real pipes.

use std::io::{Read as _, Write as _};

use super::*;

fn pump(chunked: bool) -> (io::PipeWriter, Pump, io::PipeReader) {
    let (from, writer) = io::pipe().unwrap();
    let (reader, to) = io::pipe().unwrap();
    let sink = if chunked {
        Sink {
            fd: to.into(),
            nonblocking: false,
        }
    } else {
        Sink::owned(to.into()).unwrap()
    };
    (
        writer,
        Pump::new(Source::owned(from.into()).unwrap(), sink, AtEnd::Close),
        reader,
    )
}

#[test]
fn nothing_is_read_while_the_sink_is_full() {
    let (mut writer, mut pump, mut reader) = pump(true);
    let sent: Vec<u8> = (0..128 * 1024_u32).map(|i| (i % 251) as u8).collect();
    writer.write_all(&sent[..64 * 1024]).unwrap();
    for _ in 0..4 {
        pump.step().unwrap();
    }
    writer.write_all(&sent[64 * 1024..]).unwrap();
    drop(writer);
    pump.step().unwrap();
    assert_eq!(pump.wait(), Wait::Sink);
    assert_eq!(pump.held.len(), pump.written, "nothing is held");
    let mut got = Vec::new();
    let mut buffer = [0; 1024];
    while pump.wait() != Wait::Done {
        let read = reader.read(&mut buffer).unwrap();
        got.extend_from_slice(&buffer[..read]);
        pump.step().unwrap();
    }
    reader.read_to_end(&mut got).unwrap();
    assert!(got == sent);
}

#[test]
fn bytes_put_first_come_before_the_source() {
    let (mut writer, mut pump, mut reader) = pump(false);
    writer.write_all(b"world").unwrap();
    drop(writer);
    pump.send_first(b"hello ");
    while pump.wait() != Wait::Done {
        pump.step().unwrap();
    }
    let mut got = String::new();
    reader.read_to_string(&mut got).unwrap();
    assert_eq!(got, "hello world");
}

#[test]
fn a_reader_that_has_gone_ends_the_pump_and_the_writer_notices() {
    let (mut writer, mut pump, reader) = pump(false);
    drop(reader);
    pump.step().unwrap();
    assert_eq!(pump.wait(), Wait::Done);
    assert_eq!(
        writer.write(b"x").unwrap_err().kind(),
        io::ErrorKind::BrokenPipe
    );
}

#[test]
fn draining_ends_at_an_empty_pipe_that_somebody_still_has_open() {
    let (mut writer, mut pump, mut reader) = pump(false);
    writer.write_all(b"last words").unwrap();
    pump.drain().unwrap();
    while pump.wait() != Wait::Done {
        pump.drain().unwrap();
    }
    let mut got = String::new();
    reader.read_to_string(&mut got).unwrap();
    assert_eq!(got, "last words");
    drop(writer);
}
