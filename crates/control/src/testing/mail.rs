//! A mail server that is not one: takes whatever it is given, over SMTP on loopback, and keeps it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone)]
pub struct FakeMailServer {
    pub url: String,
    mails: Arc<Mutex<Vec<String>>>,
}

impl FakeMailServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("smtp://{}", listener.local_addr().unwrap());
        let this = Self { url, mails: Arc::default() };
        let mails = Arc::clone(&this.mails);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(stream, Arc::clone(&mails)));
            }
        });
        this
    }

    /// The next mail that comes for that address.
    pub async fn mail_to(&self, address: &str) -> String {
        let found = async {
            loop {
                {
                    let mut mails = self.mails.lock().unwrap();
                    if let Some(at) = mails.iter().position(|mail| mail.contains(&format!("To: {address}"))) {
                        return mails.remove(at);
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), found).await.unwrap_or_else(|_| panic!("no mail to {address}"))
    }

    pub fn count(&self) -> usize {
        self.mails.lock().unwrap().len()
    }
}

/// What follows the `#` of a link in a mail.
pub fn secret_in(text: &str) -> String {
    let joined = text.replace("=\r\n", "").replace("=23", "#");
    let rest = joined.split('#').nth(1).unwrap_or_else(|| panic!("no link in {text}"));
    rest.split_whitespace().next().unwrap().to_owned()
}

async fn talk(stream: TcpStream, mails: Arc<Mutex<Vec<String>>>) -> Option<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    writer.write_all(b"220 fake ESMTP\r\n").await.ok()?;
    while let Some(line) = lines.next_line().await.ok()? {
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        let answer: &[u8] = match verb.as_str() {
            "EHLO" => b"250 fake\r\n",
            "DATA" => {
                writer.write_all(b"354 go on\r\n").await.ok()?;
                let mut mail = String::new();
                while let Some(line) = lines.next_line().await.ok()? {
                    if line == "." {
                        break;
                    }
                    mail.push_str(&line);
                    mail.push_str("\r\n");
                }
                mails.lock().unwrap().push(mail);
                b"250 kept\r\n"
            }
            "QUIT" => {
                writer.write_all(b"221 bye\r\n").await.ok()?;
                return Some(());
            }
            _ => b"250 fine\r\n",
        };
        writer.write_all(answer).await.ok()?;
    }
    Some(())
}
