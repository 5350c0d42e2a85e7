export interface components {
	schemas: {
		SandboxStatus:
			| 'pending'
			| 'starting'
			| 'running'
			| 'pausing'
			| 'paused'
			| 'resuming'
			| 'stopped'
			| 'missing'
			| 'error';
		OnTimeout: 'pause' | 'kill';
		Sandbox: {
			id: string;
			status: components['schemas']['SandboxStatus'];
			driver: string;
			reason?: string | null;
			template: string;
			vcpus: number;
			memory_mb: number;
			disk_mb: number;
			timeout_sec: number;
			on_timeout: components['schemas']['OnTimeout'];
			auto_resume: boolean;
			host_id?: string | null;
			metadata: Record<string, string>;
			created_at: string;
			started_at?: string | null;
			last_active_at: string;
			status_changed_at: string;
			kept?: string | null;
		};
		CreateSandboxRequest: {
			template?: string;
			vcpus?: number;
			memory_mb?: number;
			disk_mb?: number;
			timeout_sec?: number;
			on_timeout?: components['schemas']['OnTimeout'];
			metadata?: Record<string, string>;
		};
		SandboxEvent: { at: string; status: components['schemas']['SandboxStatus']; reason?: string | null };
		Template: { id: string; name: string; platform: boolean; digest: string; size_bytes: number };
		AuthResponse: { token: string; user_id: string; team_id: string; email: string; name: string };
		Me: {
			user_id: string;
			email: string;
			name: string;
			is_admin: boolean;
			team_id: string;
			role: 'member' | 'admin' | 'owner';
		};
	};
}
