//! Random conversations through the auth proxy, cut at random places, with random bytes from both sides.
//!
//! `fuzz_proxy [--seconds N] [--seed N]`: 10 s by default. The server is a model of Postgres whose answers contain the request,
//! so that a lost, doubled or misplaced answer is found. The exit status is 1 in that case, or if a task or file is left.

use std::time::{Duration, Instant};

use lakebase_core::proxy::Proxy;
use lakebase_core::{Config, Lakebase};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Concurrent sessions.
const TOGETHER: u64 = 8;
/// The longest conversation on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let length = match self.below(50) {
            // More than fits into the proxy's buffers.
            0 => self.below(200_000),
            _ => self.below(most),
        };
        (0..length).map(|_| self.next() as u8).collect()
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

async fn read_message(from: &mut (impl AsyncRead + Unpin)) -> Outcome<(u8, Vec<u8>)> {
    let tag = from.read_u8().await?;
    let length = from.read_u32().await? as usize;
    let mut body = vec![0; length.checked_sub(4).ok_or("a length below four")?];
    from.read_exact(&mut body).await?;
    Ok((tag, body))
}

/// Writes in random pieces.
async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    random: &mut Random,
) -> Outcome<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let most = match random.below(4) {
            0 => 7,
            1 => 100,
            _ => 1 << 20,
        };
        let taken = usize::try_from(1 + random.below(most))?.min(rest.len());
        to.write_all(&rest[..taken]).await?;
        rest = &rest[taken..];
        if random.below(8) == 0 {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Sends messages together, or one by one so that the proxy reads each alone.
async fn send(
    to: &mut (impl AsyncWrite + Unpin),
    messages: &[(u8, Vec<u8>)],
    random: &mut Random,
) -> Outcome<()> {
    if random.below(2) == 0 {
        let all: Vec<_> = messages
            .iter()
            .map(|(tag, body)| message(*tag, body))
            .collect();
        return write(to, &all.concat(), random).await;
    }
    for (tag, body) in messages {
        to.write_all(&message(*tag, body)).await?;
        tokio::time::sleep(Duration::from_micros(random.below(2000))).await;
    }
    Ok(())
}

/// A model of Postgres: each answer depends only on earlier messages.
#[derive(Default)]
struct Model {
    in_transaction: bool,
    copies: bool,
    copy_is_simple: bool,
}

impl Model {
    fn ready(&self) -> Vec<u8> {
        message(b'Z', if self.in_transaction { b"T" } else { b"I" })
    }

    fn answer(&mut self, tag: u8, body: &[u8]) -> Vec<u8> {
        match (tag, body.first()) {
            // Postgres ignores these during a copy.
            (b'S' | b'H', _) if self.copies => Vec::new(),
            (b'd', _) => Vec::new(),
            (b'c', _) if self.copies => {
                self.copies = false;
                let done = message(b'C', b"COPY\0");
                match self.copy_is_simple {
                    true => [done, self.ready()].concat(),
                    false => done,
                }
            }
            (b'Q', None | Some(0)) => [message(b'I', b""), self.ready()].concat(),
            (b'Q' | b'E', Some(b'c')) => {
                self.copies = true;
                self.copy_is_simple = tag == b'Q';
                message(b'G', b"\0\0\0")
            }
            (b'Q', first) => {
                match first {
                    Some(b'b') => self.in_transaction = true,
                    Some(b'e') => self.in_transaction = false,
                    _ => {}
                }
                [
                    message(b'D', body),
                    message(b'C', b"SELECT\0"),
                    self.ready(),
                ]
                .concat()
            }
            (b'P', _) => message(b'1', b""),
            (b'B', _) => message(b'2', b""),
            (b'E', _) => [message(b'D', body), message(b'C', b"SELECT\0")].concat(),
            (b'S', _) => self.ready(),
            _ => Vec::new(),
        }
    }
}

async fn serve(mut stream: TcpStream, seed: u64) -> Outcome<()> {
    stream.set_nodelay(true)?;
    let mut random = Random(seed | 1);
    let length = stream.read_u32().await? as usize;
    let mut startup = vec![0; length.checked_sub(4).ok_or("no startup packet")?];
    stream.read_exact(&mut startup).await?;
    let greeting = [
        message(b'R', &0_u32.to_be_bytes()),
        message(b'S', b"server_version\x0017\0"),
        message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]),
        message(b'Z', b"I"),
    ];
    write(&mut stream, &greeting.concat(), &mut random).await?;
    let mut model = Model::default();
    loop {
        let (tag, body) = read_message(&mut stream).await?;
        match tag {
            b'X' => return Ok(()),
            // Random bytes, then the end.
            b'!' => {
                let noise = random.bytes(300);
                write(&mut stream, &noise, &mut random).await?;
                return Ok(());
            }
            _ => {
                let answer = model.answer(tag, &body);
                write(&mut stream, &answer, &mut random).await?;
            }
        }
    }
}

/// Returns a few messages that can be sent without waiting for answers.
fn talk(random: &mut Random, number: u32) -> Vec<(u8, Vec<u8>)> {
    let mut text = |first: u8| {
        let rest = random.bytes(200);
        [&[first], &number.to_be_bytes()[..], &rest].concat()
    };
    let plain = (b'Q', text(b's'));
    let execute = (b'E', text(b's'));
    let (begin, end) = ((b'Q', text(b'b')), (b'Q', text(b'e')));
    let (copy, data) = (text(b'c'), (b'd', text(b'd')));
    let sync = (b'S', Vec::new());
    let (parse, bind) = ((b'P', text(b'p')), (b'B', text(b'p')));
    let (done, flush) = ((b'c', Vec::new()), (b'H', Vec::new()));
    match random.below(10) {
        0 => vec![sync],
        1 => vec![(b'Q', vec![0])],
        2 => vec![plain],
        3 => vec![parse, bind, execute, sync],
        4 => vec![parse, flush, bind, execute, sync.clone(), sync],
        5 => vec![begin],
        6 => vec![end],
        7 => vec![(b'Q', copy), data.clone(), data, done],
        8 => vec![
            parse,
            bind,
            (b'E', copy),
            sync.clone(),
            sync.clone(),
            data,
            done,
            sync,
        ],
        _ => vec![parse, bind, (b'E', copy), data, done, sync],
    }
}

/// Talks to the server through the proxy, and compares the answers with the model.
async fn converse(proxy: &Proxy, seed: u64) -> Outcome<u64> {
    let mut random = Random(seed | 1);
    let mut stream = open(proxy, &mut random).await?;
    let mut model = Model::default();
    let rounds = random.below(30);
    for round in 0..rounds {
        // Some messages are sent before earlier answers are read.
        let mut asked = Vec::new();
        for _ in 0..=random.below(3) {
            asked.extend(talk(&mut random, u32::try_from(round)?));
        }
        let expected: Vec<u8> = asked
            .iter()
            .flat_map(|(tag, body)| model.answer(*tag, body))
            .collect();
        let (mut reading, mut writing) = stream.split();
        let mut answer = vec![0; expected.len()];
        let (read, written) = tokio::join!(
            reading.read_exact(&mut answer),
            send(&mut writing, &asked, &mut random)
        );
        read?;
        written?;
        if answer != expected {
            return Err(format!("seed {seed}, round {round}: another answer").into());
        }
    }
    match random.below(4) {
        0 => drop(stream),
        1 => {
            let noise = random.bytes(300);
            let _ = write(&mut stream, &noise, &mut random).await;
        }
        2 => {
            // The server sends random bytes, and the session must end.
            write(&mut stream, &message(b'!', b""), &mut random).await?;
            stream.read_to_end(&mut Vec::new()).await?;
        }
        _ => write(&mut stream, &message(b'X', b""), &mut random).await?,
    }
    Ok(rounds)
}

async fn open(proxy: &Proxy, random: &mut Random) -> Outcome<UnixStream> {
    let folder = proxy.folder().ok_or("no folder")?;
    let mut stream = UnixStream::connect(folder.join(".s.PGSQL.5432")).await?;
    let body = [&(3_u32 << 16).to_be_bytes()[..], b"user\0x\0\0"].concat();
    let length = u32::try_from(body.len() + 4)?;
    let startup = [&length.to_be_bytes()[..], &body].concat();
    write(&mut stream, &startup, random).await?;
    loop {
        match read_message(&mut stream).await? {
            (b'Z', _) => return Ok(stream),
            (b'E', body) => return Err(String::from_utf8_lossy(&body).into_owned().into()),
            _ => {}
        }
    }
}

/// Sends random bytes instead of a startup packet.
async fn knock(proxy: &Proxy, seed: u64) -> Outcome<()> {
    let mut random = Random(seed | 1);
    let folder = proxy.folder().ok_or("no folder")?;
    let mut stream = UnixStream::connect(folder.join(".s.PGSQL.5432")).await?;
    let noise = random.bytes(300);
    let _ = write(&mut stream, &noise, &mut random).await;
    Ok(())
}

fn argument(name: &str, default: u64) -> Outcome<u64> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    match arguments.nth(1) {
        Some(value) => Ok(value.parse()?),
        None => Ok(default),
    }
}

async fn fuzz() -> Outcome<()> {
    let length = Duration::from_secs(argument("--seconds", 10)?);
    let seed = argument("--seed", u64::from(std::process::id()))?;
    let mut random = Random(seed | 1);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port().to_string();
    let server = tokio::spawn(async move {
        let mut seeds = Random(seed ^ 0x5555);
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, seeds.next()));
        }
    });
    let lakebase = Lakebase::new(Config::from_vars([
        ("PGHOST", "127.0.0.1"),
        ("PGPORT", &port),
        ("PGUSER", "fuzz"),
        ("PGPASSWORD", "unused"),
        ("PGSSLMODE", "disable"),
    ])?)?;
    let proxy = lakebase.proxy().await?;
    let folder = proxy.folder().ok_or("no folder")?.to_owned();
    let tasks = tokio::runtime::Handle::current().metrics();
    let before = tasks.num_alive_tasks();
    let began = Instant::now();
    let (mut sessions, mut rounds) = (0_u64, 0);
    while began.elapsed() < length {
        let seeds: Vec<u64> = (0..TOGETHER).map(|_| random.next()).collect();
        let talking = seeds.iter().map(|&seed| {
            let proxy = &proxy;
            async move {
                knock(proxy, seed).await?;
                let conversation = tokio::time::timeout(LIMIT, converse(proxy, seed)).await;
                conversation.map_err(|_| format!("seed {seed}: an answer is missing"))?
            }
        });
        for outcome in futures_util::future::join_all(talking).await {
            rounds += outcome?;
            sessions += 1;
        }
    }
    drop(proxy);
    let left = tokio::time::timeout(LIMIT, async {
        while tasks.num_alive_tasks() >= before || folder.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    left.await.map_err(|_| "something is left")?;
    server.abort();
    println!("fuzz_proxy: seed {seed}, {sessions} sessions, {rounds} rounds, every answer right");
    Ok(())
}

#[tokio::main]
async fn main() {
    if let Err(error) = fuzz().await {
        eprintln!("fuzz_proxy: {error}");
        std::process::exit(1);
    }
}
