//! People, teams and API keys.

use atoll_model::ApiKeyId;
use atoll_model::api::Page;
use atoll_model::api::auth::{
    ApiKey, AuthResponse, ChangePasswordRequest, CreateApiKeyRequest, LoginRequest, Me, SetupRequest, Team,
};
use atoll_model::api::sign_in::{
    DeviceDecisionRequest, DeviceLogin, DeviceRequest, DeviceTokenRequest, ResetConfirmRequest,
};
use http::Method;
use http_body_util::{BodyExt, Empty};
use secrecy::{ExposeSecret, SecretString};

use crate::transport::DEADLINE;
use crate::{Auth, Client, Error};

impl Client {
    /// Signs a person in; the answer is for [`Client::signed_in`].
    pub async fn login(&self, email: &str, password: &SecretString) -> Result<AuthResponse, Error> {
        let request = LoginRequest { email: email.to_owned(), password: password.expose_secret().to_owned() };
        self.with_auth(Auth::Nobody).post("/v1/auth/login", &request).await
    }

    /// Makes the first admin with the token that the server printed, and signs them in.
    pub async fn setup(
        &self,
        token: &SecretString,
        email: &str,
        password: &SecretString,
    ) -> Result<AuthResponse, Error> {
        let request = SetupRequest {
            token: token.expose_secret().to_owned(),
            email: email.to_owned(),
            password: password.expose_secret().to_owned(),
        };
        self.with_auth(Auth::Nobody).post("/v1/auth/setup", &request).await
    }

    /// Signs a person in and returns a client that asks in their name.
    pub async fn signed_in(&self, email: &str, password: &SecretString) -> Result<Self, Error> {
        let answer = self.login(email, password).await?;
        let token = answer.token.ok_or_else(|| Error::NotAtoll {
            what: "POST /v1/auth/login".to_owned(),
            cause: "the answer has no token".to_owned(),
        })?;
        Ok(self.with_auth(Auth::Bearer(token.into())))
    }

    /// Sets a new password by the token of a link.
    pub async fn confirm_reset(&self, token: &str, password: &SecretString) -> Result<(), Error> {
        let request = ResetConfirmRequest { token: token.to_owned(), password: password.expose_secret().to_owned() };
        self.with_auth(Auth::Nobody).post("/v1/auth/password/reset/confirm", &request).await
    }

    /// Changes one's own password, which ends one's other sessions.
    pub async fn change_password(&self, current: &SecretString, new: &SecretString) -> Result<(), Error> {
        let request = ChangePasswordRequest {
            current_password: Some(current.expose_secret().to_owned()),
            new_password: new.expose_secret().to_owned(),
        };
        self.post("/v1/me/password", &request).await
    }

    /// Begins the login of this program: a person has to let it in.
    pub async fn begin_device_login(&self, client_name: &str) -> Result<DeviceLogin, Error> {
        let request = DeviceRequest { client_name: Some(client_name.to_owned()) };
        self.with_auth(Auth::Nobody).post("/v1/auth/device", &request).await
    }

    /// Asks whether a person has let this program in.
    pub async fn device_token(&self, device_code: &str) -> Result<AuthResponse, Error> {
        let request = DeviceTokenRequest { device_code: device_code.to_owned() };
        self.with_auth(Auth::Nobody).post("/v1/auth/device/token", &request).await
    }

    /// Lets a program in that shows this code, to act in one's name, or sends it away.
    pub async fn decide_device_login(&self, user_code: &str, approve: bool) -> Result<(), Error> {
        let request = DeviceDecisionRequest { user_code: user_code.to_owned(), approve };
        self.post("/v1/auth/device/decision", &request).await
    }

    /// Ends the session that this client asks with.
    pub async fn logout(&self) -> Result<(), Error> {
        self.json(Method::POST, "/v1/auth/logout", None::<&()>, DEADLINE).await
    }

    pub async fn me(&self) -> Result<Me, Error> {
        self.get("/v1/me").await
    }

    pub async fn list_teams(&self) -> Result<Page<Team>, Error> {
        self.get("/v1/teams").await
    }

    pub async fn create_api_key(&self, name: &str) -> Result<ApiKey, Error> {
        let request = CreateApiKeyRequest { name: name.to_owned(), scope: None, expires_at: None };
        self.make_api_key(&request).await
    }

    /// The same with a scope and an end.
    pub async fn make_api_key(&self, request: &CreateApiKeyRequest) -> Result<ApiKey, Error> {
        self.post("/v1/api-keys", request).await
    }

    pub async fn list_api_keys(&self) -> Result<Page<ApiKey>, Error> {
        self.get("/v1/api-keys?limit=1000").await
    }

    pub async fn delete_api_key(&self, id: &ApiKeyId) -> Result<(), Error> {
        self.json(Method::DELETE, &format!("/v1/api-keys/{id}"), None::<&()>, DEADLINE).await
    }

    /// Whether the server is ready: its database answers and, under `atoll up`, a create would succeed. Asked once.
    pub async fn ready(&self) -> Result<(), Error> {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let asked = self.send(Method::GET, "/readyz", None, body);
        let timed_out = |_| Error::TimedOut { what: "GET /readyz".to_owned(), seconds: DEADLINE.as_secs() };
        tokio::time::timeout(DEADLINE, asked).await.map_err(timed_out)?.map(drop)
    }
}
