// Made by `npm run types` from /openapi.json. Do not edit.

/** Every route, by method and path. */
export type Route =
    | "DELETE /v1/api-keys/{id}"
    | "DELETE /v1/hosts/{id}"
    | "DELETE /v1/hosts/{id}/tags"
    | "DELETE /v1/sandboxes/{id}"
    | "DELETE /v1/sandboxes/{id}/processes/{process}"
    | "DELETE /v1/secrets/{name}"
    | "DELETE /v1/sessions"
    | "DELETE /v1/sessions/{id}"
    | "DELETE /v1/snapshots/{name}"
    | "DELETE /v1/teams/{id}"
    | "DELETE /v1/teams/{id}/invitations/{invitation}"
    | "DELETE /v1/teams/{id}/members/{user_id}"
    | "DELETE /v1/templates/{name}"
    | "DELETE /v1/templates/{name}/builds/{build}"
    | "DELETE /v1/volumes/{name}"
    | "DELETE /v1/webhooks/{id}"
    | "GET /.well-known/jwks.json"
    | "GET /.well-known/openid-configuration"
    | "GET /healthz"
    | "GET /metrics"
    | "GET /readyz"
    | "GET /v1/admin/audit-logs"
    | "GET /v1/admin/hosts"
    | "GET /v1/admin/sandboxes"
    | "GET /v1/admin/teams"
    | "GET /v1/admin/teams/{id}/quotas"
    | "GET /v1/admin/teams/{id}/usage"
    | "GET /v1/admin/users"
    | "GET /v1/admin/users/{id}"
    | "GET /v1/api-keys"
    | "GET /v1/audit-logs"
    | "GET /v1/auth/config"
    | "GET /v1/auth/device"
    | "GET /v1/auth/oidc/{provider}"
    | "GET /v1/auth/oidc/{provider}/callback"
    | "GET /v1/events"
    | "GET /v1/hosts"
    | "GET /v1/hosts/{id}"
    | "GET /v1/hosts/{id}/delete-preview"
    | "GET /v1/hosts/{id}/drain"
    | "GET /v1/hosts/{id}/images/{digest}"
    | "GET /v1/hosts/{id}/images/{digest}/index"
    | "GET /v1/hosts/{id}/tags"
    | "GET /v1/hosts/{id}/tunnel"
    | "GET /v1/hosts/{id}/tunnel/relay"
    | "GET /v1/invitations/{token}"
    | "GET /v1/me"
    | "GET /v1/sandboxes"
    | "GET /v1/sandboxes/{id}"
    | "GET /v1/sandboxes/{id}/events"
    | "GET /v1/sandboxes/{id}/exec/stream"
    | "GET /v1/sandboxes/{id}/files/stream/read"
    | "GET /v1/sandboxes/{id}/files/watch"
    | "GET /v1/sandboxes/{id}/logs"
    | "GET /v1/sandboxes/{id}/metrics"
    | "GET /v1/sandboxes/{id}/processes"
    | "GET /v1/sandboxes/{id}/pty"
    | "GET /v1/secrets"
    | "GET /v1/sessions"
    | "GET /v1/snapshots"
    | "GET /v1/snapshots/{name}"
    | "GET /v1/teams"
    | "GET /v1/teams/{id}"
    | "GET /v1/teams/{id}/invitations"
    | "GET /v1/teams/{id}/members"
    | "GET /v1/teams/{id}/network"
    | "GET /v1/templates"
    | "GET /v1/templates/files/{hash}"
    | "GET /v1/templates/{name}"
    | "GET /v1/templates/{name}/builds"
    | "GET /v1/templates/{name}/builds/{build}"
    | "GET /v1/templates/{name}/builds/{build}/logs"
    | "GET /v1/templates/{name}/tags"
    | "GET /v1/usage"
    | "GET /v1/usage/activity"
    | "GET /v1/volumes"
    | "GET /v1/volumes/{name}"
    | "GET /v1/webhooks"
    | "GET /v1/webhooks/{id}"
    | "GET /v1/webhooks/{id}/deliveries"
    | "PATCH /v1/hosts/{id}"
    | "PATCH /v1/me"
    | "PATCH /v1/teams/{id}"
    | "PATCH /v1/teams/{id}/members/{user_id}"
    | "PATCH /v1/templates/{name}"
    | "PATCH /v1/webhooks/{id}"
    | "POST /v1/admin/users"
    | "POST /v1/admin/users/{id}/password-reset"
    | "POST /v1/api-keys"
    | "POST /v1/auth/device"
    | "POST /v1/auth/device/decision"
    | "POST /v1/auth/device/token"
    | "POST /v1/auth/login"
    | "POST /v1/auth/logout"
    | "POST /v1/auth/password/reset"
    | "POST /v1/auth/password/reset/confirm"
    | "POST /v1/auth/setup"
    | "POST /v1/auth/signup"
    | "POST /v1/auth/switch-team"
    | "POST /v1/hosts"
    | "POST /v1/hosts/auth/refresh"
    | "POST /v1/hosts/register"
    | "POST /v1/hosts/{id}/drain"
    | "POST /v1/hosts/{id}/heartbeat"
    | "POST /v1/hosts/{id}/sandboxes/{sandbox_id}/identity-token"
    | "POST /v1/hosts/{id}/tags"
    | "POST /v1/hosts/{id}/token"
    | "POST /v1/hosts/{id}/undrain"
    | "POST /v1/invitations/{token}/accept"
    | "POST /v1/me/password"
    | "POST /v1/sandboxes"
    | "POST /v1/sandboxes/{id}/exec"
    | "POST /v1/sandboxes/{id}/files/list"
    | "POST /v1/sandboxes/{id}/files/mkdir"
    | "POST /v1/sandboxes/{id}/files/move"
    | "POST /v1/sandboxes/{id}/files/read"
    | "POST /v1/sandboxes/{id}/files/remove"
    | "POST /v1/sandboxes/{id}/files/stream/read"
    | "POST /v1/sandboxes/{id}/files/stream/write"
    | "POST /v1/sandboxes/{id}/files/write"
    | "POST /v1/sandboxes/{id}/fork"
    | "POST /v1/sandboxes/{id}/links"
    | "POST /v1/sandboxes/{id}/pause"
    | "POST /v1/sandboxes/{id}/ping"
    | "POST /v1/sandboxes/{id}/resume"
    | "POST /v1/sandboxes/{id}/timeout"
    | "POST /v1/secrets"
    | "POST /v1/snapshots"
    | "POST /v1/teams"
    | "POST /v1/teams/{id}/invitations"
    | "POST /v1/teams/{id}/leave"
    | "POST /v1/teams/{id}/members"
    | "POST /v1/templates"
    | "POST /v1/volumes"
    | "POST /v1/webhooks"
    | "POST /v1/webhooks/{id}/secret"
    | "POST /v1/webhooks/{id}/test"
    | "PUT /v1/admin/teams/{id}/byoc"
    | "PUT /v1/admin/teams/{id}/quotas"
    | "PUT /v1/admin/users/{id}/active"
    | "PUT /v1/admin/users/{id}/admin"
    | "PUT /v1/sandboxes/{id}/network"
    | "PUT /v1/teams/{id}/network"
    | "PUT /v1/templates/files/{hash}";

export type paths = Record<string, never>;
export type webhooks = Record<string, never>;
export interface components {
    schemas: {
        /** @description Empty for somebody who is signed in; a new person says who they are. */
        AcceptInvitationRequest: {
            name?: string | null;
            /** @description 8 to 1,024 characters. */
            password?: string | null;
        };
        /** @description How busy a team was. */
        Activity: {
            /** @description Oldest first, without gaps. */
            points: components["schemas"]["ActivityPoint"][];
            /**
             * Format: int64
             * @description Of a point.
             */
            step_sec: number;
        };
        /** @description What happened from `timestamp` until the next point. */
        ActivityPoint: {
            /**
             * Format: int64
             * @description The most sandboxes that ran at once.
             */
            concurrent: number;
            /**
             * Format: int64
             * @description Sandboxes that began to run: made, or waking from a pause.
             */
            starts: number;
            /** Format: date-time */
            timestamp: string;
        };
        /**
         * @description Who acts.
         * @enum {string}
         */
        ActorKind: "user" | "api_key" | "host" | "system";
        /** @description Makes somebody who has an account a member. (`POST /v1/teams/{id}/invitations` invites those who have none.) */
        AddMemberRequest: {
            email: string;
            role?: components["schemas"]["Role"] | null;
        };
        /**
         * @description A header that the host adds to requests that a sandbox sends over HTTPS (port 443) to a name, in place of what the
         *     sandbox has sent under the same header's name. `${secrets.NAME}` in the value stands for the team's secret of that name,
         *     `${identity.NAME}` for a token of the sandbox's identity of that name; it sees neither. It opens nothing: the name must be one that the sandbox may reach.
         */
        AddedHeader: {
            /** @description `api.example.com`, or `*.example.com` for all names below it. */
            domain: string;
            /** @description `Authorization`. */
            name: string;
            /** @description `Bearer ${secrets.example}`. */
            value: string;
        };
        /** @description A sandbox with its team. */
        AdminSandbox: components["schemas"]["Sandbox"] & {
            team_id: components["schemas"]["TeamId"];
            team_name: string;
        };
        /** @description A team as a platform admin sees it. */
        AdminTeam: {
            /** Format: date-time */
            created_at: string;
            /**
             * Format: int64
             * @description Its own machines.
             */
            hosts: number;
            id: components["schemas"]["TeamId"];
            is_byoc: boolean;
            /** Format: int64 */
            members: number;
            name: string;
            /**
             * Format: int64
             * @description Those that are not stopped.
             */
            sandboxes: number;
            slug: string;
        };
        /** @description A person as a platform admin sees them. */
        AdminUser: {
            /** Format: date-time */
            created_at: string;
            email: string;
            id: components["schemas"]["UserId"];
            /** @description False: can't sign in, and every session is refused. */
            is_active: boolean;
            is_admin: boolean;
            /**
             * Format: date-time
             * @description When a session was last opened.
             */
            last_login_at?: string | null;
            name: string;
            /** Format: int64 */
            teams: number;
        };
        /** @description How much of something a team has, and may have. */
        Allowance: {
            /**
             * Format: int64
             * @description None: no limit.
             */
            limit?: number | null;
            /**
             * Format: int64
             * @description The limit that was set for this team alone. None: `limit` is the installation's default.
             */
            own?: number | null;
            /** Format: int64 */
            used: number;
        };
        ApiKey: {
            /** Format: date-time */
            created_at: string;
            created_by?: components["schemas"]["UserId"] | null;
            /** @description The same key in the form that E2B's SDKs check for (`e2b_...`); both open the same. */
            e2b_key?: string | null;
            /** Format: date-time */
            expires_at?: string | null;
            id: components["schemas"]["ApiKeyId"];
            /** @description The key itself; only in the answer that creates it. */
            key?: string | null;
            /** @description The first 10 characters of the key. */
            key_prefix: string;
            /**
             * Format: date-time
             * @description To the minute.
             */
            last_used_at?: string | null;
            name: string;
            scope: components["schemas"]["KeyScope"];
        };
        ApiKeyId: string;
        /** @description Who did what to which thing, from where, with what result. */
        AuditEntry: {
            /** @description Reads `thing.verb`: `sandbox.create`, `member.remove`. */
            action: string;
            actor_id?: string | null;
            actor_kind: components["schemas"]["ActorKind"];
            /** @description The person's address, or the key's name, while there is one. */
            actor_name?: string | null;
            /** @description Where the request came from. */
            address?: string | null;
            /** @description What it became. */
            after?: unknown;
            /** Format: date-time */
            at: string;
            /** @description What the change replaced, where there was something, without secrets. */
            before?: unknown;
            details: {
                [key: string]: unknown;
            };
            id: components["schemas"]["AuditId"];
            request_id?: string | null;
            resource_id?: string | null;
            resource_kind: string;
            /** @description `ok`, or an error code. */
            result: string;
            team_id?: components["schemas"]["TeamId"] | null;
            user_agent?: string | null;
        };
        AuditId: string;
        /** @description What a page for signing in needs to know. Public. */
        AuthConfig: {
            /** @description Below which name sandboxes are reached by host name, where the server was given one: `E2B_DOMAIN` for the SDKs. */
            domain?: string | null;
            providers: components["schemas"]["SignInProvider"][];
            /** @description Nobody has an account: the first admin is made with the setup token that the server printed. */
            setup_needed: boolean;
            signup: components["schemas"]["Signup"];
            /** @description Whether the server sends mail. Without it an admin hands out the links that set a new password. */
            smtp: boolean;
        };
        AuthResponse: {
            /** @description To be sent as `X-CSRF-Token` with whatever a cookie session changes; only in an answer that sets the cookie. */
            csrf_token?: string | null;
            email: string;
            /**
             * Format: date-time
             * @description When the session ends by itself.
             */
            expires_at: string;
            name: string;
            team_id: components["schemas"]["TeamId"];
            /** @description A user JWT for `Authorization: Bearer`, valid for 6 hours. Absent from an answer that sets a cookie. */
            token?: string | null;
            user_id: components["schemas"]["UserId"];
        };
        BackgroundExecResponse: {
            /** Format: int32 */
            pid: number;
            tag?: string | null;
        };
        Build: {
            /** Format: date-time */
            created_at: string;
            /** Format: date-time */
            finished_at?: string | null;
            id: components["schemas"]["BuildId"];
            /** @description Why there is no product. */
            reason?: string | null;
            status: components["schemas"]["BuildStatus"];
            /** @description Where it failed: `base`, a step's number from 1, or `finalize`. */
            step?: string | null;
            template_id: components["schemas"]["TemplateId"];
        };
        BuildId: string;
        /** @description One line of a build's log. */
        BuildLogLine: {
            /** @description `debug`, `info`, `warn` or `error`. */
            level: string;
            message: string;
            /**
             * Format: int64
             * @description Counts from 0.
             */
            seq: number;
            step?: string | null;
            /** Format: date-time */
            timestamp: string;
        };
        /** @enum {string} */
        BuildStatus: "waiting" | "building" | "ready" | "error" | "cancelled";
        Capacity: {
            /**
             * Format: int64
             * @description Thousandths of a core.
             */
            cpu_millis: number;
            /** Format: int64 */
            disk_mb: number;
            /** Format: int64 */
            memory_mb: number;
        };
        ChangePasswordRequest: {
            /** @description Absent only for people who have no password yet, since they sign in elsewhere. */
            current_password?: string | null;
            /** @description 8 to 1,024 characters. */
            new_password: string;
        };
        /** @description A page of a list that also says how long the list is. */
        CountedPage_AdminSandbox: {
            items: (components["schemas"]["Sandbox"] & {
                team_id: components["schemas"]["TeamId"];
                team_name: string;
            })[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
            /**
             * Format: int64
             * @description How many items the filters match, over all pages.
             */
            total: number;
        };
        /** @description A page of a list that also says how long the list is. */
        CountedPage_AdminTeam: {
            items: {
                /** Format: date-time */
                created_at: string;
                /**
                 * Format: int64
                 * @description Its own machines.
                 */
                hosts: number;
                id: components["schemas"]["TeamId"];
                is_byoc: boolean;
                /** Format: int64 */
                members: number;
                name: string;
                /**
                 * Format: int64
                 * @description Those that are not stopped.
                 */
                sandboxes: number;
                slug: string;
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
            /**
             * Format: int64
             * @description How many items the filters match, over all pages.
             */
            total: number;
        };
        /** @description A page of a list that also says how long the list is. */
        CountedPage_AdminUser: {
            items: {
                /** Format: date-time */
                created_at: string;
                email: string;
                id: components["schemas"]["UserId"];
                /** @description False: can't sign in, and every session is refused. */
                is_active: boolean;
                is_admin: boolean;
                /**
                 * Format: date-time
                 * @description When a session was last opened.
                 */
                last_login_at?: string | null;
                name: string;
                /** Format: int64 */
                teams: number;
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
            /**
             * Format: int64
             * @description How many items the filters match, over all pages.
             */
            total: number;
        };
        /** @description A page of a list that also says how long the list is. */
        CountedPage_Host: {
            items: {
                /** @description Where control reaches the agent: `host:port`, or `tunnel` for one that keeps a connection open to control. */
                address?: string | null;
                agent_version?: string | null;
                arch?: string | null;
                availability_zone?: string | null;
                /** Format: int32 */
                cpu_cores?: number | null;
                /** Format: date-time */
                created_at: string;
                created_by?: components["schemas"]["UserId"] | null;
                /** Format: int64 */
                disk_gb?: number | null;
                /** @description It is draining, and nothing is left on it that would be lost with it. */
                drained: boolean;
                draining: boolean;
                id: components["schemas"]["HostId"];
                /** Format: date-time */
                last_heartbeat_at?: string | null;
                /** Format: int64 */
                memory_mb?: number | null;
                name: string;
                provider?: string | null;
                sandbox_counts: components["schemas"]["SandboxCounts"];
                status: components["schemas"]["HostStatus"];
                /** @description Free labels, sorted. */
                tags: string[];
                team_id?: components["schemas"]["TeamId"] | null;
                team_name?: string | null;
                type: components["schemas"]["HostType"];
                /** Format: date-time */
                updated_at: string;
                /** @description What virtual machines run on there: memory of machines goes on where this is the same. */
                vm_version?: string | null;
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
            /**
             * Format: int64
             * @description How many items the filters match, over all pages.
             */
            total: number;
        };
        CreateApiKeyRequest: {
            /**
             * Format: date-time
             * @description Refused from then on; never when absent. In the future.
             */
            expires_at?: string | null;
            name: string;
            scope?: components["schemas"]["KeyScope"] | null;
        };
        CreateByocHost: {
            availability_zone?: string | null;
            /** @description Made up when absent. */
            name?: string | null;
            provider?: string | null;
            team_id?: components["schemas"]["TeamId"] | null;
            /** @enum {string} */
            type: "byoc";
        };
        CreateHostRequest: components["schemas"]["CreateRegularHost"] | components["schemas"]["CreateByocHost"];
        CreateHostResponse: {
            /** Format: date-time */
            expires_at: string;
            host: components["schemas"]["Host"];
            /** @description Single use, shown once. Give it to `atoll host --register`. */
            registration_token: string;
        };
        CreateRegularHost: {
            availability_zone?: string | null;
            /** @description Made up when absent. */
            name?: string | null;
            provider?: string | null;
            team_id?: null;
            /** @enum {string} */
            type?: "regular";
        };
        /** @description Everything is optional: `{}` makes a sandbox from `base`. */
        CreateSandboxRequest: {
            /**
             * @description A request to the paused sandbox wakes it.
             * @default null
             */
            auto_resume?: boolean | null;
            /**
             * Format: int64
             * @description Quota of the sandbox's own writes, thinly provisioned. 16 to 16,777,216; 5120 when absent.
             * @default null
             */
            disk_mb?: number | null;
            /**
             * @description `container`, `vm` or `auto`.
             * @default null
             */
            driver?: string | null;
            /**
             * @description Environment of every process in it.
             * @default {}
             */
            env?: {
                [key: string]: string;
            };
            /**
             * @description Identities of its own, 5 at most: the names that added headers call them (`${identity.NAME}`), and for whom their tokens
             *     are (`aud`). A token is a JWT (a JWT-SVID of SPIFFE, ES256) that anybody can check by this server's
             *     `/.well-known/openid-configuration`.
             * @default {}
             */
            identities?: {
                [key: string]: string;
            };
            /**
             * @description False closes all ways out of the sandbox.
             * @default null
             */
            internet?: boolean | null;
            /**
             * Format: int64
             * @description 32 to 1,048,576; 512 when absent.
             * @default null
             */
            memory_mb?: number | null;
            /**
             * @description Free labels; lists can be filtered by them.
             * @default {}
             */
            metadata?: {
                [key: string]: string;
            };
            /** @default null */
            network?: components["schemas"]["NetworkPolicy"] | null;
            /** @default null */
            on_reboot?: components["schemas"]["OnReboot"] | null;
            /** @default null */
            on_timeout?: components["schemas"]["OnTimeout"] | null;
            /**
             * @description True lets anybody send requests to its ports; otherwise they take a signed link or an API key.
             * @default null
             */
            public?: boolean | null;
            /**
             * @description Secrets of the team that become part of the environment: the variable's name, and the secret's.
             * @default {}
             */
            secrets?: {
                [key: string]: string;
            };
            /**
             * @description What it begins with, of a snapshot of a virtual machine: `memory` or `files`. When absent, with its memory if that
             *     was kept and the size is the same.
             * @default null
             */
            start_from?: string | null;
            /**
             * @description Template name or id; `base` when absent.
             * @default null
             */
            template?: string | null;
            /**
             * Format: int64
             * @description Idle time after which `on_timeout` acts; 0 (when absent) for never. At most 31,536,000.
             * @default null
             */
            timeout_sec?: number | null;
            /**
             * Format: int32
             * @description 1 to 64; 1 when absent.
             * @default null
             */
            vcpus?: number | null;
            /**
             * @description Volumes of the team, 8 at most. The sandbox runs on the host that has them.
             * @default []
             */
            volumes?: components["schemas"]["VolumeMount"][];
        };
        /** @description Shown without its value, so that it can't reach a log. */
        CreateSecretRequest: {
            /** @description 1 to 128 letters, digits, `_`, `-` and `.`, not beginning with a dot. */
            name: string;
            /** @description 1 to 65,536 bytes, without NUL. */
            value: string;
        };
        CreateSnapshotRequest: {
            /**
             * @description Keep its processes too: for virtual machines. Sandboxes of the same size that are made from it go on with them, on
             *     the host that has it; others start from its files.
             */
            memory?: boolean | null;
            /** @description Lower-case letters, digits and hyphens, 64 at most; made up when absent. */
            name?: string | null;
            sandbox_id: components["schemas"]["SandboxId"];
        };
        /** @description A team that is to be made; its maker becomes its owner. */
        CreateTeamRequest: {
            name: string;
        };
        /**
         * @description A build of a template: from a recipe, or from an image of a registry. The template is made when there is none of the
         *     name.
         */
        CreateTemplateRequest: {
            /**
             * @description The hash under which the files that COPY takes from were uploaded.
             * @default null
             */
            context?: string | null;
            /**
             * Format: int64
             * @default null
             */
            disk_mb?: number | null;
            /**
             * @description What its sandboxes run in: `container`, `vm`, or `auto` for what their create or their host says; as what it is built
             *     from when absent.
             * @default null
             */
            driver?: string | null;
            /**
             * @description Build every step anew.
             * @default false
             */
            force?: boolean;
            /**
             * @description In place of a recipe: an image by reference, such as `debian:12`.
             * @default null
             */
            image?: string | null;
            /**
             * @description With `driver` `vm`: a machine is started at the end of the build, and sandboxes go on with what it has in memory when
             *     it is ready, its start command's programs among that.
             * @default false
             */
            keep_memory?: boolean;
            /**
             * Format: int64
             * @default null
             */
            memory_mb?: number | null;
            /**
             * @description Lower-case letters, digits and hyphens, 64 at most; maybe with `:tag`.
             * @default
             */
            name?: string;
            /**
             * @description Asked until it succeeds; wins over the recipe's READY.
             * @default null
             */
            ready_cmd?: string | null;
            /**
             * @description In the manner of a Dockerfile: FROM, RUN, COPY, ENV, WORKDIR, USER, CMD, READY.
             * @default null
             */
            recipe?: string | null;
            /** @default null */
            registry?: components["schemas"]["RegistryLogin"] | null;
            /**
             * @description Run at each start of a sandbox; wins over the recipe's CMD.
             * @default null
             */
            start_cmd?: string | null;
            /**
             * @description What the build is called within its template; `default` when absent.
             * @default []
             */
            tags?: string[];
            /**
             * Format: int32
             * @description Sizes of its sandboxes unless they ask for others.
             * @default null
             */
            vcpus?: number | null;
        };
        CreateUserRequest: {
            email: string;
            name: string;
        };
        CreateVolumeRequest: {
            mode?: components["schemas"]["VolumeMode"] | null;
            /** @description 1 to 64 lower-case letters, digits and hyphens, not beginning with a hyphen. */
            name: string;
            /**
             * Format: int64
             * @description What it may hold. 16 to 16,777,216; 1024 when absent.
             */
            size_mb?: number | null;
        };
        CreateWebhookRequest: {
            /** @description What is sent: kinds (`sandbox`) and types (`host.deleted`). Everything when absent or empty. */
            events?: string[];
            /** @description `https://` or `http://`, without user name, to an address that is not private. */
            url: string;
        };
        /** @description One event on its way to one webhook. */
        Delivery: {
            /** Format: int32 */
            attempts: number;
            /** Format: date-time */
            created_at: string;
            /** Format: int64 */
            duration_ms?: number | null;
            error?: string | null;
            /**
             * Format: int64
             * @description None: a test.
             */
            event_id?: number | null;
            /** Format: date-time */
            finished_at?: string | null;
            id: components["schemas"]["DeliveryId"];
            /**
             * Format: date-time
             * @description When it is tried again, while it is pending.
             */
            next_attempt_at?: string | null;
            /**
             * Format: int32
             * @description Of the last attempt.
             */
            response_status?: number | null;
            status: components["schemas"]["DeliveryStatus"];
            type: string;
        };
        DeliveryId: string;
        /** @enum {string} */
        DeliveryStatus: "pending" | "delivered" | "failed";
        DeviceDecisionRequest: {
            /** @description Whether the program may act in one's name, in one's current team. */
            approve: boolean;
            user_code: string;
        };
        /** @description As RFC 8628 has it. */
        DeviceLogin: {
            /** @description For the program alone. */
            device_code: string;
            /**
             * Format: int64
             * @description Seconds.
             */
            expires_in: number;
            /**
             * Format: int64
             * @description Seconds between two questions whether it is approved.
             */
            interval: number;
            /** @description For the person. */
            user_code: string;
            /** @description Where the person goes. */
            verification_uri: string;
            verification_uri_complete: string;
        };
        /** @description A program that waits to be let in. */
        DeviceLoginDetail: {
            /** @description Where it asked from. */
            address?: string | null;
            client_name: string;
            /** Format: date-time */
            created_at: string;
            /** Format: date-time */
            expires_at: string;
            user_code: string;
        };
        DeviceRequest: {
            /** @description What the person is told about who asks, such as the machine's name. */
            client_name?: string | null;
        };
        DeviceTokenRequest: {
            device_code: string;
        };
        /**
         * @description A SOCKS5 proxy of one's own, through which the host leads all TCP connections of a sandbox that the rest of its policy
         *     lets out. Nothing inside sees it, and nothing of TCP goes past it: when it can't be reached, or refuses, connections fail.
         *     It must have an IPv4 address that sandboxes may reach. Names are resolved by the host, and UDP goes out directly.
         */
        EgressProxy: {
            /** @description `proxy.example.com:1080`. */
            address: string;
            /**
             * @description Never shown. `${secrets.NAME}` in it stands for the team's secret of that name. Left out when everything else of the
             *     proxy stays as it is, it stays too; empty, there is none.
             */
            password?: string | null;
            tls?: components["schemas"]["EgressProxyTls"] | null;
            /** @description `{{sandboxID}}` in it, and in the password, stands for the sandbox's id. */
            username?: string | null;
        };
        /** @description How a proxy shows who it is. */
        EgressProxyTls: {
            /**
             * @description Who vouches for it, in PEM, of at most 64 KiB; whom the host's machine trusts when absent.
             * @default null
             */
            ca_cert?: string | null;
            /**
             * @description The name in its certificate; that of its address when absent.
             * @default null
             */
            server_name?: string | null;
        };
        /**
         * @description How `stdout` and `stderr` are written: as they are, or base64 when they are not UTF-8.
         * @enum {string}
         */
        Encoding: "utf-8" | "base64";
        EndedSessions: {
            /**
             * Format: int64
             * @description How many.
             */
            ended: number;
        };
        /** @description The body of every error answer. */
        ErrorBody: {
            error: components["schemas"]["ErrorDetail"];
        };
        /** @enum {string} */
        ErrorCode: "invalid_request" | "unauthorized" | "forbidden" | "origin_mismatch" | "csrf_token_invalid" | "signup_closed" | "authorization_pending" | "slow_down" | "access_denied" | "expired_token" | "not_found" | "method_not_allowed" | "conflict" | "invalid_state" | "host_has_sandboxes" | "snapshot_in_use" | "email_taken" | "name_taken" | "host_deleted" | "too_large" | "unsupported_media_type" | "rate_limited" | "quota_exceeded" | "internal" | "agent_error" | "provider_error" | "no_hosts_available" | "host_unavailable" | "overloaded" | "not_ready" | "insufficient_storage" | "timeout";
        ErrorDetail: {
            code: components["schemas"]["ErrorCode"];
            /** @description The field of the request that was wrong, when one was. */
            field?: string | null;
            /** @description For a person: what went wrong and what to do. */
            message: string;
            request_id: string;
        } & {
            [key: string]: unknown;
        };
        /** @description Something that happened. `data` of a server-sent event, and the body of a webhook. */
        Event: {
            /** Format: date-time */
            created_at: string;
            /**
             * Format: int64
             * @description Its place in the order of all events. A webhook may bring one twice: this tells.
             */
            id: number;
            /** @description The thing as the API shows it now (which may be later than the event); null when it is gone. */
            object?: unknown;
            resource: components["schemas"]["Resource"];
            team_id?: components["schemas"]["TeamId"] | null;
            /** @description Kind and what happened: `sandbox.created`, `host.updated`, `api_key.deleted`. */
            type: string;
        };
        ExecRequest: {
            args?: string[];
            /** @description Answer at once with the pid. */
            background?: boolean;
            cmd: string;
            cwd?: string | null;
            env?: {
                [key: string]: string;
            };
            /** @description A name to find the process by later. */
            tag?: string | null;
            /**
             * Format: int64
             * @description 30 when absent, at most 3,600; then the program and its group are killed and the answer is 504.
             */
            timeout_sec?: number | null;
            user?: string | null;
        };
        ExecResponse: {
            cmd: string;
            /** Format: double */
            duration_ms: number;
            encoding: components["schemas"]["Encoding"];
            /**
             * Format: int32
             * @description 128 + signal when killed by one.
             */
            exit_code: number;
            sandbox_id: components["schemas"]["SandboxId"];
            stderr: string;
            stdout: string;
        };
        /**
         * @description What happened to a file.
         * @enum {string}
         */
        FileChange: "create" | "write" | "remove" | "rename" | "chmod";
        FileEntry: {
            group: string;
            /**
             * Format: int32
             * @description Permission bits.
             */
            mode: number;
            /** Format: date-time */
            modified_at?: string | null;
            name: string;
            owner: string;
            path: string;
            /** Format: int64 */
            size_bytes: number;
            symlink_target?: string | null;
            type: components["schemas"]["FileType"];
        };
        FileList: {
            items: components["schemas"]["FileEntry"][];
        };
        /** @enum {string} */
        FileType: "file" | "directory" | "symlink" | "other";
        ForkError: {
            code: components["schemas"]["ErrorCode"];
            message: string;
        };
        /** @description Children that start from the files that a sandbox has now. */
        ForkRequest: {
            /**
             * Format: int32
             * @description 1 (when absent) to 100.
             * @default null
             */
            count?: number | null;
            /**
             * @description Their labels; the sandbox's own when absent.
             * @default null
             */
            metadata?: {
                [key: string]: string;
            } | null;
            /**
             * Format: int64
             * @description The children's idle timeout; the sandbox's own when absent.
             * @default null
             */
            timeout_sec?: number | null;
        };
        ForkResponse: {
            items: components["schemas"]["Forked"][];
            /** @description What was kept for the children: `memory` or `files`; each says what it goes on with. */
            kept: string;
        };
        /** @description One child: a sandbox that runs and answers, or why there is none. */
        Forked: {
            error?: components["schemas"]["ForkError"] | null;
            sandbox?: components["schemas"]["Sandbox"] | null;
        };
        Health: {
            status: string;
            version: string;
        };
        /** @description What a host says of itself every heartbeat. */
        HeartbeatRequest: {
            address: string;
            agent_version: string;
            /** @description The kernel's boot id: tells a restart of the agent from a reboot of the machine. */
            boot_id: string;
            cached_images?: string[];
            capacity: components["schemas"]["Capacity"];
            /** @description Isolation drivers on offer, the preferred one first; empty from an agent that doesn't say. */
            drivers?: string[];
            /** @description Set when the agent shuts down in order. */
            going_offline?: boolean;
            /** @description False while the agent is still finding its sandboxes again. */
            inventory_complete: boolean;
            /** @description A create would succeed on this host. */
            ready: boolean;
            sandbox_counts: components["schemas"]["SandboxCounts"];
            /** @description Hash over the set of (sandbox id, state, generation). */
            sandbox_digest: string;
            /** @description What its sandboxes have been promised (the sum of their sizes), not what they touch at the moment. */
            used: components["schemas"]["Capacity"];
            /** @description What virtual machines run on here: memory of machines goes on where this is the same. */
            vm_version?: string | null;
        };
        Host: {
            /** @description Where control reaches the agent: `host:port`, or `tunnel` for one that keeps a connection open to control. */
            address?: string | null;
            agent_version?: string | null;
            arch?: string | null;
            availability_zone?: string | null;
            /** Format: int32 */
            cpu_cores?: number | null;
            /** Format: date-time */
            created_at: string;
            created_by?: components["schemas"]["UserId"] | null;
            /** Format: int64 */
            disk_gb?: number | null;
            /** @description It is draining, and nothing is left on it that would be lost with it. */
            drained: boolean;
            draining: boolean;
            id: components["schemas"]["HostId"];
            /** Format: date-time */
            last_heartbeat_at?: string | null;
            /** Format: int64 */
            memory_mb?: number | null;
            name: string;
            provider?: string | null;
            sandbox_counts: components["schemas"]["SandboxCounts"];
            status: components["schemas"]["HostStatus"];
            /** @description Free labels, sorted. */
            tags: string[];
            team_id?: components["schemas"]["TeamId"] | null;
            team_name?: string | null;
            type: components["schemas"]["HostType"];
            /** Format: date-time */
            updated_at: string;
            /** @description What virtual machines run on there: memory of machines goes on where this is the same. */
            vm_version?: string | null;
        };
        /** @description Credentials of a host, from registration and from every refresh. */
        HostCredentials: {
            /** Format: date-time */
            access_expires_at: string;
            /** @description JWT for `X-Host-Token`, valid for 7 days. */
            access_token: string;
            /** @description Control's CA, PEM. */
            ca: string;
            /** @description Server-only certificate for the agent's listener, PEM. */
            certificate: string;
            /** Format: date-time */
            certificate_expires_at: string;
            host_id: components["schemas"]["HostId"];
            name: string;
            /** Format: date-time */
            refresh_expires_at: string;
            /** @description Opaque, single use (rotates), valid for 60 days. */
            refresh_token: string;
            /** @description What control expects of the agent. */
            settings: components["schemas"]["HostSettings"];
        };
        /** @description What a forced deletion would destroy. */
        HostDeletePreview: {
            host: components["schemas"]["Host"];
            /** @description Snapshots and templates with files that are stored nowhere else yet. */
            images: string[];
            /** Format: int64 */
            sandbox_count: number;
            /** @description All that are not stopped; the first 1,000 of them. */
            sandboxes: components["schemas"]["Sandbox"][];
            /** @description Volumes that lie on it. */
            volumes: components["schemas"]["VolumeId"][];
        };
        /** @description How far a host that is drained has come. */
        HostDrain: {
            /** @description It drains, and nothing is left on it that would be lost with it: neither sandboxes nor volumes nor images. */
            drained: boolean;
            draining: boolean;
            /** @description Snapshots and templates that are stored nowhere else yet. */
            image_ids: string[];
            /**
             * Format: int64
             * @description Sandboxes on it that are not stopped.
             */
            sandbox_count: number;
            /** @description The first 1,000 of them, those that have waited longest first. */
            sandboxes: components["schemas"]["HostDrainSandbox"][];
            /** @description Volumes that lie on it: they don't move. */
            volume_ids: components["schemas"]["VolumeId"][];
        };
        /** @description A sandbox that a drained host still has. */
        HostDrainSandbox: {
            id: components["schemas"]["SandboxId"];
            status: components["schemas"]["SandboxStatus"];
            to_host_id?: components["schemas"]["HostId"] | null;
            /** @description What it waits for, or why it can't leave. */
            waits_for: string;
        };
        HostId: string;
        /** @description Settings that control hands to its hosts. */
        HostSettings: {
            /** Format: int64 */
            heartbeat_interval_ms: number;
        };
        /** @description What a machine has and offers. */
        HostSpecs: {
            agent_version: string;
            arch: string;
            /** Format: int32 */
            cpu_cores: number;
            /** Format: int64 */
            disk_gb: number;
            /** @description Isolation drivers on offer: `container`, `vm`. */
            drivers: string[];
            /** Format: int64 */
            memory_mb: number;
        };
        /** @enum {string} */
        HostStatus: "pending" | "online" | "unreachable" | "offline";
        /** @description Free labels of a host. */
        HostTags: {
            tags: string[];
        };
        /**
         * @description Whose machine it is.
         * @enum {string}
         */
        HostType: "regular" | "byoc";
        /** @description A token of a sandbox's identity. */
        IdentityToken: {
            /** @description A JWT-SVID. */
            token: string;
            /**
             * Format: int64
             * @description Seconds that it is good for.
             */
            ttl_sec: number;
        };
        /** @description Which of a sandbox's identities its host asks a token of. */
        IdentityTokenRequest: {
            /** @description The identity's name. */
            name: string;
        };
        Invitation: {
            /** Format: date-time */
            created_at: string;
            email: string;
            /** Format: date-time */
            expires_at: string;
            id: components["schemas"]["InvitationId"];
            invited_by?: components["schemas"]["UserId"] | null;
            /** @description Whether it went out by mail; only in the answer that makes it. */
            mailed?: boolean | null;
            role: components["schemas"]["Role"];
            /** @description To be handed to the person, when it could not be mailed; only in the answer that makes it. */
            url?: string | null;
        };
        InvitationAccepted: {
            role: components["schemas"]["Role"];
            team_id: components["schemas"]["TeamId"];
        };
        /** @description What the holder of an invitation may know. */
        InvitationDetail: {
            email: string;
            /** Format: date-time */
            expires_at: string;
            /** @description There is an account with this address: sign in, then accept. */
            has_account: boolean;
            role: components["schemas"]["Role"];
            team_id: components["schemas"]["TeamId"];
            team_name: string;
        };
        InvitationId: string;
        InviteRequest: {
            email: string;
            role?: components["schemas"]["Role"] | null;
        };
        /**
         * @description What a key may be used for.
         * @enum {string}
         */
        KeyScope: "all" | "sandboxes" | "read";
        /** @description Where a port of a sandbox is reached from outside. */
        Link: {
            /**
             * Format: date-time
             * @description Nothing for a public sandbox: its address doesn't expire.
             */
            expires_at?: string | null;
            /** @description The host name alone, to which programs can send an API key. */
            host: string;
            /** Format: int32 */
            port: number;
            /** @description Opens the port to whoever has it, until it expires. Of a public sandbox it is the plain address. */
            url: string;
        };
        /** @description Which port a signed link opens, and for how long. */
        LinkRequest: {
            /**
             * Format: int32
             * @description A port that a program in the sandbox listens on.
             */
            port: number;
            /**
             * Format: int64
             * @description 1 to 2,592,000 (30 days); 3,600 when absent.
             */
            ttl_sec?: number | null;
        };
        ListFilesRequest: {
            /**
             * Format: int32
             * @description 1 (the directory's own entries) to 32.
             */
            depth?: number | null;
            path: string;
            user?: string | null;
        };
        LogLine: {
            level: string;
            message: string;
            /**
             * Format: int32
             * @description The program that wrote it; absent of the guest agent's own lines.
             */
            pid?: number | null;
            /** @description `stdout` or `stderr`, where that program wrote it. */
            stream?: string | null;
            /** Format: date-time */
            timestamp: string;
        };
        LoginRequest: {
            email: string;
            password: string;
        };
        Me: {
            /** @description To be sent as `X-CSRF-Token` with whatever a cookie session changes; absent for tokens. */
            csrf_token?: string | null;
            email: string;
            /** @description Whether there is a password to change; people who sign in elsewhere may have none. */
            has_password: boolean;
            is_admin: boolean;
            name: string;
            role: components["schemas"]["Role"];
            team_id: components["schemas"]["TeamId"];
            user_id: components["schemas"]["UserId"];
        };
        Member: {
            /**
             * Format: date-time
             * @description When the membership began.
             */
            created_at: string;
            email: string;
            /** @description False: the account is switched off by a platform admin. */
            is_active: boolean;
            name: string;
            role: components["schemas"]["Role"];
            user_id: components["schemas"]["UserId"];
        };
        /** @description Oldest first. Times in which the sandbox did not run have no points. */
        Metrics: {
            points: components["schemas"]["MetricsPoint"][];
            /**
             * Format: int32
             * @description Seconds that each point stands for: 5, 60 or 900. The last one of a running sandbox is of this moment.
             */
            step_sec?: number | null;
        };
        /** @description One point of a sandbox's metrics: of the `step_sec` seconds that begin at its time, or of this moment. */
        MetricsPoint: {
            /**
             * Format: double
             * @description Of one core, the mean: 200 is two cores.
             */
            cpu_pct: number;
            /** Format: int64 */
            disk_bytes: number;
            /**
             * Format: int64
             * @description The highest that was seen.
             */
            mem_bytes: number;
            /**
             * Format: int64
             * @description Since the sandbox's processes began: rates are differences.
             */
            net_rx_bytes: number;
            /** Format: int64 */
            net_tx_bytes: number;
            /** Format: int32 */
            processes: number;
            /** Format: int64 */
            timestamp_unix: number;
        };
        /** @description A volume that a sandbox was given. */
        Mount: {
            /** @description Where its files are inside. */
            path: string;
            read_only: boolean;
            /** @description Its name. */
            volume: string;
            volume_id: components["schemas"]["VolumeId"];
        };
        MoveFileRequest: {
            destination: string;
            source: string;
            user?: string | null;
        };
        /**
         * @description What a sandbox may reach: IPv4 networks (`10.1.0.0/16`, or an address) and names (`example.com`, or `*.example.com`
         *     for all below it). What is allowed wins over what is denied; what is named by neither is open. With `0.0.0.0/0`
         *     denied, only what is allowed can be reached, and only allowed names are resolved. Networks that the platform keeps
         *     closed to all sandboxes stay closed.
         */
        NetworkPolicy: {
            /**
             * @description At most 128.
             * @default []
             */
            allow_out?: string[];
            /**
             * Format: int64
             * @description What it may send to the world each second, and as much that it may get from there: 1,000 to 10,000,000,000 bytes. What
             *     is beyond is dropped. Null for no bound of its own; where its host has one for all, the smaller counts.
             * @default null
             */
            bandwidth_bytes_per_second?: number | null;
            /**
             * @description At most 128.
             * @default []
             */
            deny_out?: string[];
            /** @default null */
            egress_proxy?: components["schemas"]["EgressProxy"] | null;
            /**
             * @description What requests get on their way out, the last word for each name; at most 64.
             * @default []
             */
            headers?: components["schemas"]["AddedHeader"][];
        };
        /**
         * @description What becomes of a container sandbox when its host has rebooted.
         * @enum {string}
         */
        OnReboot: "restart" | "stop";
        /**
         * @description What happens to a sandbox that has been idle for its timeout.
         * @enum {string}
         */
        OnTimeout: "pause" | "kill";
        /** @description A page of a list. */
        Page_ApiKey: {
            items: {
                /** Format: date-time */
                created_at: string;
                created_by?: components["schemas"]["UserId"] | null;
                /** @description The same key in the form that E2B's SDKs check for (`e2b_...`); both open the same. */
                e2b_key?: string | null;
                /** Format: date-time */
                expires_at?: string | null;
                id: components["schemas"]["ApiKeyId"];
                /** @description The key itself; only in the answer that creates it. */
                key?: string | null;
                /** @description The first 10 characters of the key. */
                key_prefix: string;
                /**
                 * Format: date-time
                 * @description To the minute.
                 */
                last_used_at?: string | null;
                name: string;
                scope: components["schemas"]["KeyScope"];
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
        };
        /** @description A page of a list. */
        Page_AuditEntry: {
            items: {
                /** @description Reads `thing.verb`: `sandbox.create`, `member.remove`. */
                action: string;
                actor_id?: string | null;
                actor_kind: components["schemas"]["ActorKind"];
                /** @description The person's address, or the key's name, while there is one. */
                actor_name?: string | null;
                /** @description Where the request came from. */
                address?: string | null;
                /** @description What it became. */
                after?: unknown;
                /** Format: date-time */
                at: string;
                /** @description What the change replaced, where there was something, without secrets. */
                before?: unknown;
                details: {
                    [key: string]: unknown;
                };
                id: components["schemas"]["AuditId"];
                request_id?: string | null;
                resource_id?: string | null;
                resource_kind: string;
                /** @description `ok`, or an error code. */
                result: string;
                team_id?: components["schemas"]["TeamId"] | null;
                user_agent?: string | null;
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
        };
        /** @description A page of a list. */
        Page_Build: {
            items: {
                /** Format: date-time */
                created_at: string;
                /** Format: date-time */
                finished_at?: string | null;
                id: components["schemas"]["BuildId"];
                /** @description Why there is no product. */
                reason?: string | null;
                status: components["schemas"]["BuildStatus"];
                /** @description Where it failed: `base`, a step's number from 1, or `finalize`. */
                step?: string | null;
                template_id: components["schemas"]["TemplateId"];
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
        };
        /** @description A page of a list. */
        Page_Delivery: {
            items: {
                /** Format: int32 */
                attempts: number;
                /** Format: date-time */
                created_at: string;
                /** Format: int64 */
                duration_ms?: number | null;
                error?: string | null;
                /**
                 * Format: int64
                 * @description None: a test.
                 */
                event_id?: number | null;
                /** Format: date-time */
                finished_at?: string | null;
                id: components["schemas"]["DeliveryId"];
                /**
                 * Format: date-time
                 * @description When it is tried again, while it is pending.
                 */
                next_attempt_at?: string | null;
                /**
                 * Format: int32
                 * @description Of the last attempt.
                 */
                response_status?: number | null;
                status: components["schemas"]["DeliveryStatus"];
                type: string;
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
        };
        /** @description A page of a list. */
        Page_Host: {
            items: {
                /** @description Where control reaches the agent: `host:port`, or `tunnel` for one that keeps a connection open to control. */
                address?: string | null;
                agent_version?: string | null;
                arch?: string | null;
                availability_zone?: string | null;
                /** Format: int32 */
                cpu_cores?: number | null;
                /** Format: date-time */
                created_at: string;
                created_by?: components["schemas"]["UserId"] | null;
                /** Format: int64 */
                disk_gb?: number | null;
                /** @description It is draining, and nothing is left on it that would be lost with it. */
                drained: boolean;
                draining: boolean;
                id: components["schemas"]["HostId"];
                /** Format: date-time */
                last_heartbeat_at?: string | null;
                /** Format: int64 */
                memory_mb?: number | null;
                name: string;
                provider?: string | null;
                sandbox_counts: components["schemas"]["SandboxCounts"];
                status: components["schemas"]["HostStatus"];
                /** @description Free labels, sorted. */
                tags: string[];
                team_id?: components["schemas"]["TeamId"] | null;
                team_name?: string | null;
                type: components["schemas"]["HostType"];
                /** Format: date-time */
                updated_at: string;
                /** @description What virtual machines run on there: memory of machines goes on where this is the same. */
                vm_version?: string | null;
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
        };
        /** @description A page of a list. */
        Page_Invitation: {
            items: {
                /** Format: date-time */
                created_at: string;
                email: string;
                /** Format: date-time */
                expires_at: string;
                id: components["schemas"]["InvitationId"];
                invited_by?: components["schemas"]["UserId"] | null;
                /** @description Whether it went out by mail; only in the answer that makes it. */
                mailed?: boolean | null;
                role: components["schemas"]["Role"];
                /** @description To be handed to the person, when it could not be mailed; only in the answer that makes it. */
                url?: string | null;
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
        };
        /** @description A page of a list. */
        Page_LogLine: {
            items: {
                level: string;
                message: string;
                /**
                 * Format: int32
                 * @description The program that wrote it; absent of the guest agent's own lines.
                 */
                pid?: number | null;
                /** @description `stdout` or `stderr`, where that program wrote it. */
                stream?: string | null;
                /** Format: date-time */
                timestamp: string;
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
        };
        /** @description A page of a list. */
        Page_Member: {
            items: {
                /**
                 * Format: date-time
                 * @description When the membership began.
                 */
                created_at: string;
                email: string;
                /** @description False: the account is switched off by a platform admin. */
                is_active: boolean;
                name: string;
                role: components["schemas"]["Role"];
                user_id: components["schemas"]["UserId"];
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
        };
        /** @description A page of a list. */
        Page_Process: {
            items: {
                args: string[];
                cmd: string;
                cwd?: string | null;
                /** Format: int32 */
                pid: number;
                tag?: string | null;
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
        };
        /** @description A page of a list. */
        Page_Sandbox: {
            items: {
                auto_resume: boolean;
                /** Format: date-time */
                created_at: string;
                /** Format: int64 */
                disk_mb: number;
                driver: string;
                /**
                 * Format: int64
                 * @description In answers to pause: how much of its memory went to swap.
                 */
                freed_bytes?: number | null;
                host_id?: components["schemas"]["HostId"] | null;
                id: components["schemas"]["SandboxId"];
                /** @description The audiences of its identities, by name. */
                identities?: {
                    [key: string]: string;
                };
                /** @description False: all ways out of it are closed. */
                internet?: boolean;
                /**
                 * @description In answers to pause and resume: what was kept, `memory` or `files`. In those to a create from a snapshot that has memory,
                 *     and to a fork of a machine: what it goes on with.
                 */
                kept?: string | null;
                /** Format: date-time */
                last_active_at: string;
                /** Format: int64 */
                memory_mb: number;
                metadata: {
                    [key: string]: string;
                };
                /** @description The team's volumes that it was given, by path. */
                mounts: components["schemas"]["Mount"][];
                /** @description What it may reach, where that was said. */
                network?: components["schemas"]["NetworkPolicy"];
                on_timeout: components["schemas"]["OnTimeout"];
                /** @description Anybody may send requests to its ports. */
                public?: boolean;
                /** @description Why it is in this status. */
                reason?: string | null;
                /** Format: date-time */
                started_at?: string | null;
                status: components["schemas"]["SandboxStatus"];
                /** Format: date-time */
                status_changed_at: string;
                template: string;
                /** Format: int64 */
                timeout_sec: number;
                /** Format: int32 */
                vcpus: number;
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
        };
        /** @description A page of a list. */
        Page_SandboxEvent: {
            items: {
                /** Format: date-time */
                at: string;
                reason?: string | null;
                status: components["schemas"]["SandboxStatus"];
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
        };
        /** @description A page of a list. */
        Page_Secret: {
            items: {
                /** Format: date-time */
                created_at: string;
                /** @description A person or an API key. */
                created_by?: string | null;
                id: components["schemas"]["SecretId"];
                /** @description Unique in the team. */
                name: string;
                /**
                 * Format: date-time
                 * @description When its value was last set.
                 */
                updated_at: string;
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
        };
        /** @description A page of a list. */
        Page_Session: {
            items: {
                /** @description Where it was opened from. */
                address?: string | null;
                /** Format: date-time */
                created_at: string;
                /** @description The one that asks. */
                current: boolean;
                /** Format: date-time */
                expires_at: string;
                id: components["schemas"]["SessionId"];
                kind: components["schemas"]["SessionKind"];
                /**
                 * Format: date-time
                 * @description To the minute.
                 */
                last_seen_at?: string | null;
                /** @description The team that it acts in. */
                team_id: components["schemas"]["TeamId"];
                user_agent?: string | null;
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
        };
        /** @description A page of a list. */
        Page_Snapshot: {
            items: {
                /** Format: date-time */
                created_at: string;
                /** Format: int64 */
                disk_mb: number;
                id: components["schemas"]["TemplateId"];
                /** @description What it kept: `memory` or `files`. */
                kind: string;
                /** @description It was not in the object store, and the host that had it was deleted: no sandbox can be made from it any more. */
                lost: boolean;
                /** Format: int64 */
                memory_mb: number;
                /** @description Unique among the team's snapshots and templates. */
                name: string;
                /** @description The platform's: no team can delete it. */
                platform: boolean;
                /** @description Why it is not in the object store, when that failed. It is tried again, later and later. */
                problem?: string | null;
                /**
                 * Format: int64
                 * @description What had been written over the template.
                 */
                size_bytes: number;
                /** @description It is in the object store: every host can have it. Until then its sandboxes start on the host that made it. */
                stored: boolean;
                /**
                 * Format: int32
                 * @description What its sandboxes get unless they ask for something else.
                 */
                vcpus: number;
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
        };
        /** @description A page of a list. */
        Page_Team: {
            items: {
                /** Format: date-time */
                created_at: string;
                id: components["schemas"]["TeamId"];
                is_byoc: boolean;
                name: string;
                /** @description The caller's role in it. */
                role: components["schemas"]["Role"];
                slug: string;
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
        };
        /** @description A page of a list. */
        Page_Template: {
            items: {
                /** Format: date-time */
                created_at: string;
                /** @description Who its sandboxes' programs run as unless a request says otherwise. */
                default_user: string;
                default_workdir: string;
                /** @description SHA-256 of its image, hex. */
                digest: string;
                /** @description What its sandboxes run in: `container`, `vm`, or `auto` for what their create or their host says. */
                driver: string;
                id: components["schemas"]["TemplateId"];
                /** @description Unique within its team, and among the platform's. */
                name: string;
                /** @description The platform's: every team has it, none can change it. */
                platform: boolean;
                /** @description Its team has published it: every team may make sandboxes from it. */
                public: boolean;
                /** Format: int64 */
                size_bytes: number;
                /**
                 * Format: date-time
                 * @description When its image last changed, or who may use it.
                 */
                updated_at: string;
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
        };
        /** @description A page of a list. */
        Page_Volume: {
            items: {
                /** Format: date-time */
                created_at: string;
                host_id?: components["schemas"]["HostId"] | null;
                id: components["schemas"]["VolumeId"];
                /** @description Its host was deleted, and its files with it: all that is left to do is to delete it. */
                lost: boolean;
                mode: components["schemas"]["VolumeMode"];
                /** @description Unique in the team. */
                name: string;
                /** @description Sandboxes that have it mounted and are not stopped. While there are any it can't be deleted. */
                sandboxes: components["schemas"]["SandboxId"][];
                /** Format: int64 */
                size_mb: number;
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
        };
        /** @description A page of a list. */
        Page_Webhook: {
            items: {
                /** Format: date-time */
                created_at: string;
                created_by?: components["schemas"]["UserId"] | null;
                /** @description Why it was disabled, when nobody did it on purpose. */
                disabled_reason?: string | null;
                enabled: boolean;
                /** @description Empty: everything. */
                events: string[];
                /**
                 * Format: date-time
                 * @description Since when nothing reached it.
                 */
                failing_since?: string | null;
                id: components["schemas"]["WebhookId"];
                /** @description What deliveries are signed with; only in the answer that creates it. */
                secret?: string | null;
                /** Format: date-time */
                updated_at: string;
                url: string;
            }[];
            /** @description Pass as `cursor` to get the next page; absent on the last one. */
            next_cursor?: string | null;
        };
        PathRequest: {
            path: string;
            user?: string | null;
        };
        Process: {
            args: string[];
            cmd: string;
            cwd?: string | null;
            /** Format: int32 */
            pid: number;
            tag?: string | null;
        };
        /** @description What a team's sandboxes that are not stopped take, and may take. */
        Quotas: {
            disk_mb: components["schemas"]["Allowance"];
            memory_mb: components["schemas"]["Allowance"];
            sandboxes: components["schemas"]["Allowance"];
            vcpus: components["schemas"]["Allowance"];
        };
        /**
         * @description The refresh token is in the body; the body is signed with the host's key (header `X-Host-Signature`,
         *     base64 of the signature over the exact bytes of the body), so that a stolen token alone is worth nothing.
         */
        RefreshHostRequest: {
            csr: string;
            refresh_token: string;
            /**
             * Format: int64
             * @description Milliseconds since 1970, to bound replays of a recorded request.
             */
            timestamp_ms: number;
        };
        /** @description The request that a new agent enrols with. A bad token is 401 before anything else is judged. */
        RegisterHostRequest: {
            /** @description Where control can reach the agent: `host:port`, or `tunnel` when it can't. */
            address: string;
            /** @description A certificate signing request, PEM. Its subject is ignored; its key is certified. */
            csr: string;
            specs: components["schemas"]["HostSpecs"];
            token: string;
        };
        /** @description A new registration token; the older ones are worth nothing. */
        RegistrationTokenResponse: {
            /** Format: date-time */
            expires_at: string;
            /** @description Single use, shown once. */
            registration_token: string;
        };
        RegistryLogin: {
            password: string;
            username: string;
        };
        ResetConfirmRequest: {
            /** @description 8 to 1,024 characters. */
            password: string;
            /** @description From the link. */
            token: string;
        };
        /** @description A link with which somebody sets a password, once. */
        ResetLink: {
            email: string;
            /** Format: date-time */
            expires_at: string;
            /** @description Shown once: absent from the answer to a repeated request with the same `Idempotency-Key`. */
            url?: string | null;
            user_id: components["schemas"]["UserId"];
        };
        ResetRequest: {
            email: string;
        };
        /** @description What an event is about. */
        Resource: {
            /** @description Of a member: the person's. */
            id: string;
            /** @description `sandbox`, `host`, `template`, `snapshot`, `api_key`, `team`, `member` or `webhook`. */
            kind: string;
        };
        /**
         * @description A person's role in a team. Ordered: a greater one may do all that a lesser one may.
         * @enum {string}
         */
        Role: "member" | "admin" | "owner";
        Sandbox: {
            auto_resume: boolean;
            /** Format: date-time */
            created_at: string;
            /** Format: int64 */
            disk_mb: number;
            driver: string;
            /**
             * Format: int64
             * @description In answers to pause: how much of its memory went to swap.
             */
            freed_bytes?: number | null;
            host_id?: components["schemas"]["HostId"] | null;
            id: components["schemas"]["SandboxId"];
            /** @description The audiences of its identities, by name. */
            identities?: {
                [key: string]: string;
            };
            /** @description False: all ways out of it are closed. */
            internet?: boolean;
            /**
             * @description In answers to pause and resume: what was kept, `memory` or `files`. In those to a create from a snapshot that has memory,
             *     and to a fork of a machine: what it goes on with.
             */
            kept?: string | null;
            /** Format: date-time */
            last_active_at: string;
            /** Format: int64 */
            memory_mb: number;
            metadata: {
                [key: string]: string;
            };
            /** @description The team's volumes that it was given, by path. */
            mounts: components["schemas"]["Mount"][];
            /** @description What it may reach, where that was said. */
            network?: components["schemas"]["NetworkPolicy"];
            on_timeout: components["schemas"]["OnTimeout"];
            /** @description Anybody may send requests to its ports. */
            public?: boolean;
            /** @description Why it is in this status. */
            reason?: string | null;
            /** Format: date-time */
            started_at?: string | null;
            status: components["schemas"]["SandboxStatus"];
            /** Format: date-time */
            status_changed_at: string;
            template: string;
            /** Format: int64 */
            timeout_sec: number;
            /** Format: int32 */
            vcpus: number;
        };
        /** @description Sandboxes on a host, by status. */
        SandboxCounts: {
            /** Format: int32 */
            other: number;
            /** Format: int32 */
            paused: number;
            /** Format: int32 */
            running: number;
        };
        SandboxEvent: {
            /** Format: date-time */
            at: string;
            reason?: string | null;
            status: components["schemas"]["SandboxStatus"];
        };
        SandboxId: string;
        /** @enum {string} */
        SandboxStatus: "pending" | "starting" | "running" | "pausing" | "paused" | "resuming" | "stopped" | "missing" | "error";
        /** @description Without its value: that is never read back. */
        Secret: {
            /** Format: date-time */
            created_at: string;
            /** @description A person or an API key. */
            created_by?: string | null;
            id: components["schemas"]["SecretId"];
            /** @description Unique in the team. */
            name: string;
            /**
             * Format: date-time
             * @description When its value was last set.
             */
            updated_at: string;
        };
        SecretId: string;
        Session: {
            /** @description Where it was opened from. */
            address?: string | null;
            /** Format: date-time */
            created_at: string;
            /** @description The one that asks. */
            current: boolean;
            /** Format: date-time */
            expires_at: string;
            id: components["schemas"]["SessionId"];
            kind: components["schemas"]["SessionKind"];
            /**
             * Format: date-time
             * @description To the minute.
             */
            last_seen_at?: string | null;
            /** @description The team that it acts in. */
            team_id: components["schemas"]["TeamId"];
            user_agent?: string | null;
        };
        SessionId: string;
        /**
         * @description How a session proves itself.
         * @enum {string}
         */
        SessionKind: "token" | "browser";
        /** @description The whole of what a sandbox may reach from now on; what is left out is cleared. */
        SetNetworkRequest: {
            /** @default [] */
            allow_out?: string[];
            /**
             * Format: int64
             * @description 1,000 to 10,000,000,000, for each direction; null for no bound of its own.
             * @default null
             */
            bandwidth_bytes_per_second?: number | null;
            /** @default [] */
            deny_out?: string[];
            /** @default null */
            egress_proxy?: components["schemas"]["EgressProxy"] | null;
            /** @default [] */
            headers?: components["schemas"]["AddedHeader"][];
            /**
             * @description False closes all ways out.
             * @default null
             */
            internet?: boolean | null;
        };
        /** @description Sets all of a team's limits: what is absent or null is the installation's default. */
        SetQuotasRequest: {
            /**
             * Format: int64
             * @default null
             */
            disk_mb?: number | null;
            /**
             * Format: int64
             * @default null
             */
            memory_mb?: number | null;
            /**
             * Format: int64
             * @default null
             */
            sandboxes?: number | null;
            /**
             * Format: int64
             * @default null
             */
            vcpus?: number | null;
        };
        /** @description Makes the first admin of a fresh installation. */
        SetupRequest: {
            email: string;
            /** @description 8 to 1,024 characters. */
            password: string;
            /** @description What the server printed at its start. */
            token: string;
        };
        /** @description A place elsewhere where people can sign in. */
        SignInProvider: {
            /** @description As in `/v1/auth/oidc/{provider}`. */
            id: string;
            /** @description For people. */
            name: string;
        };
        /**
         * @description Who may make an account.
         * @enum {string}
         */
        Signup: "open" | "invite" | "closed";
        /** @description Makes an account, with a team of the person's own. */
        SignupRequest: {
            email: string;
            /** @description The token of an invitation; needed where signing up is by invitation only. Its team is joined at once. */
            invitation?: string | null;
            name: string;
            /** @description 8 to 1,024 characters. */
            password: string;
        };
        /** @description Sandboxes are created from it by its name or id, as from a template. */
        Snapshot: {
            /** Format: date-time */
            created_at: string;
            /** Format: int64 */
            disk_mb: number;
            id: components["schemas"]["TemplateId"];
            /** @description What it kept: `memory` or `files`. */
            kind: string;
            /** @description It was not in the object store, and the host that had it was deleted: no sandbox can be made from it any more. */
            lost: boolean;
            /** Format: int64 */
            memory_mb: number;
            /** @description Unique among the team's snapshots and templates. */
            name: string;
            /** @description The platform's: no team can delete it. */
            platform: boolean;
            /** @description Why it is not in the object store, when that failed. It is tried again, later and later. */
            problem?: string | null;
            /**
             * Format: int64
             * @description What had been written over the template.
             */
            size_bytes: number;
            /** @description It is in the object store: every host can have it. Until then its sandboxes start on the host that made it. */
            stored: boolean;
            /**
             * Format: int32
             * @description What its sandboxes get unless they ask for something else.
             */
            vcpus: number;
        };
        StartedBuild: {
            build: components["schemas"]["Build"];
            template: components["schemas"]["Template"];
        };
        /** @description Text frames that a client sends on `exec/stream`, and as control frames on `pty`. */
        StreamInput: {
            args?: string[];
            cmd?: string | null;
            /**
             * Format: int32
             * @description Terminals: columns and rows.
             */
            cols?: number | null;
            cwd?: string | null;
            env?: {
                [key: string]: string;
            };
            /** Format: int32 */
            rows?: number | null;
            /** @description Without it the program's stdin is empty. */
            stdin?: boolean;
            tag?: string | null;
            /** @enum {string} */
            type: "start";
            user?: string | null;
        } | {
            data: string;
            encoding?: components["schemas"]["Encoding"] | null;
            /** @enum {string} */
            type: "stdin";
        } | {
            /** @enum {string} */
            type: "close_stdin";
        } | {
            signal: string;
            /** @enum {string} */
            type: "signal";
        } | {
            /** Format: int32 */
            cols: number;
            /** Format: int32 */
            rows: number;
            /** @enum {string} */
            type: "resize";
        } | {
            /** @enum {string} */
            type: "stop";
        };
        /**
         * @description Text frames that the server sends on `exec/stream`, and as control frames on `pty`.
         *     On `exec/stream`, output may also come as binary frames: one byte (1 stdout, 2 stderr), then the bytes;
         *     ask for them with `?binary=true`. Input may always come as binary frames (stdin bytes).
         */
        StreamOutput: {
            /** Format: int32 */
            pid: number;
            /** @enum {string} */
            type: "start";
        } | {
            data: string;
            encoding: components["schemas"]["Encoding"];
            /** @enum {string} */
            type: "stdout";
        } | {
            data: string;
            encoding: components["schemas"]["Encoding"];
            /** @enum {string} */
            type: "stderr";
        } | {
            /** Format: int32 */
            exit_code: number;
            signal?: string | null;
            /** @enum {string} */
            type: "exit";
        } | {
            code: string;
            /** @description The field of the start frame that was wrong. */
            field?: string | null;
            message: string;
            /** @description What is wrong with it: `not_found` or `not_executable`. */
            reason?: string | null;
            /** @enum {string} */
            type: "error";
        };
        SwitchRequest: {
            enabled: boolean;
        };
        SwitchTeamRequest: {
            team_id: components["schemas"]["TeamId"];
        };
        Team: {
            /** Format: date-time */
            created_at: string;
            id: components["schemas"]["TeamId"];
            is_byoc: boolean;
            name: string;
            /** @description The caller's role in it. */
            role: components["schemas"]["Role"];
            slug: string;
        };
        /** @description A team with the people in it. */
        TeamDetail: {
            /** @description The first 1,000, oldest membership first; `GET /v1/teams/{id}/members` has all of them. */
            members: components["schemas"]["Member"][];
            /**
             * Format: int64
             * @description How many there are.
             */
            members_total?: number;
            team: components["schemas"]["Team"];
        };
        TeamId: string;
        Template: {
            /** Format: date-time */
            created_at: string;
            /** @description Who its sandboxes' programs run as unless a request says otherwise. */
            default_user: string;
            default_workdir: string;
            /** @description SHA-256 of its image, hex. */
            digest: string;
            /** @description What its sandboxes run in: `container`, `vm`, or `auto` for what their create or their host says. */
            driver: string;
            id: components["schemas"]["TemplateId"];
            /** @description Unique within its team, and among the platform's. */
            name: string;
            /** @description The platform's: every team has it, none can change it. */
            platform: boolean;
            /** @description Its team has published it: every team may make sandboxes from it. */
            public: boolean;
            /** Format: int64 */
            size_bytes: number;
            /**
             * Format: date-time
             * @description When its image last changed, or who may use it.
             */
            updated_at: string;
        };
        TemplateId: string;
        /** @description What a template's sandboxes are beside its image. */
        TemplateTags: {
            /** @description Build by tag. */
            tags: {
                [key: string]: components["schemas"]["BuildId"];
            };
        };
        TimeoutRequest: {
            on_timeout?: components["schemas"]["OnTimeout"] | null;
            /**
             * Format: int64
             * @description Idle seconds; 0 for never.
             */
            timeout_sec: number;
        };
        /** @description Changes what is given. */
        UpdateHostRequest: {
            name?: string | null;
        };
        UpdateMeRequest: {
            name: string;
        };
        UpdateMemberRequest: {
            role: components["schemas"]["Role"];
        };
        /** @description Changes what is given. */
        UpdateTeamRequest: {
            name?: string | null;
            /** @description In addresses: lower-case letters, digits and single hyphens. */
            slug?: string | null;
        };
        /** @description What is to be another way of a template. What isn't named stays. */
        UpdateTemplateRequest: {
            /**
             * @description Whether every team may make sandboxes from it.
             * @default null
             */
            public?: boolean | null;
        };
        /** @description Changes what is given. Enabling one again forgets that it failed. */
        UpdateWebhookRequest: {
            /** @default null */
            enabled?: boolean | null;
            /** @default null */
            events?: string[] | null;
            /** @default null */
            url?: string | null;
        };
        Usage: {
            /** @description Oldest first, days without any included. */
            days: components["schemas"]["UsageDay"][];
            quotas: components["schemas"]["Quotas"];
        };
        /** @description What a team used on one day (UTC). */
        UsageDay: {
            /** @description `2026-11-25`. */
            date: string;
            /**
             * Format: double
             * @description From creation to the end.
             */
            disk_mb_seconds: number;
            /**
             * Format: double
             * @description Running or paused.
             */
            memory_mb_seconds: number;
            /**
             * Format: double
             * @description Running.
             */
            sandbox_seconds: number;
            /**
             * Format: int64
             * @description Sandboxes that there were on that day.
             */
            sandboxes: number;
            /** Format: double */
            vcpu_seconds: number;
        };
        UserId: string;
        /** @description It lies on one host, on which the sandboxes that mount it run. */
        Volume: {
            /** Format: date-time */
            created_at: string;
            host_id?: components["schemas"]["HostId"] | null;
            id: components["schemas"]["VolumeId"];
            /** @description Its host was deleted, and its files with it: all that is left to do is to delete it. */
            lost: boolean;
            mode: components["schemas"]["VolumeMode"];
            /** @description Unique in the team. */
            name: string;
            /** @description Sandboxes that have it mounted and are not stopped. While there are any it can't be deleted. */
            sandboxes: components["schemas"]["SandboxId"][];
            /** Format: int64 */
            size_mb: number;
        };
        VolumeId: string;
        /**
         * @description How many sandboxes may have a volume mounted at once.
         * @enum {string}
         */
        VolumeMode: "shared" | "exclusive";
        /** @description A volume in a sandbox. */
        VolumeMount: {
            /** @description Where its files are inside: absolute, made where the template lacks it. */
            path: string;
            read_only?: boolean;
            /** @description Its name or id. */
            volume: string;
        };
        /** @description Text frames that the server sends on `files/watch`. */
        WatchOutput: {
            /** @enum {string} */
            type: "start";
        } | {
            change: components["schemas"]["FileChange"];
            /** @description Relative to the watched directory. */
            name: string;
            /** @enum {string} */
            type: "change";
        } | {
            code: string;
            message: string;
            /** @enum {string} */
            type: "error";
        };
        Webhook: {
            /** Format: date-time */
            created_at: string;
            created_by?: components["schemas"]["UserId"] | null;
            /** @description Why it was disabled, when nobody did it on purpose. */
            disabled_reason?: string | null;
            enabled: boolean;
            /** @description Empty: everything. */
            events: string[];
            /**
             * Format: date-time
             * @description Since when nothing reached it.
             */
            failing_since?: string | null;
            id: components["schemas"]["WebhookId"];
            /** @description What deliveries are signed with; only in the answer that creates it. */
            secret?: string | null;
            /** Format: date-time */
            updated_at: string;
            url: string;
        };
        WebhookId: string;
        /** @description What a multipart body has; for the document. */
        WriteFileForm: {
            /** Format: binary */
            file: string;
            path?: string | null;
            user?: string | null;
        };
        WrittenFile: {
            path: string;
            /** Format: int64 */
            size_bytes: number;
        };
    };
    responses: never;
    parameters: never;
    requestBodies: never;
    headers: never;
    pathItems: never;
}
export type $defs = Record<string, never>;
export type operations = Record<string, never>;
