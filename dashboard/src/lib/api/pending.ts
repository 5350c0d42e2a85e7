// Routes that the dashboard is written against and that main doesn't have yet, and their shapes.
import type { Role } from './types';

export type PendingRoute =
	| 'GET /v1/usage'
	| 'GET /v1/teams/{id}/invitations'
	| 'POST /v1/teams/{id}/invitations'
	| 'DELETE /v1/teams/{id}/invitations/{invitation}'
	| 'GET /v1/invitations/{token}'
	| 'POST /v1/invitations/{token}/accept'
	| 'POST /v1/auth/password/reset'
	| 'POST /v1/auth/password/reset/confirm'
	| 'GET /v1/auth/device'
	| 'POST /v1/auth/device/decision'
	| 'POST /v1/admin/users'
	| 'POST /v1/admin/users/{id}/password-reset'
	| 'GET /v1/webhooks'
	| 'POST /v1/webhooks'
	| 'PATCH /v1/webhooks/{id}'
	| 'DELETE /v1/webhooks/{id}'
	| 'POST /v1/webhooks/{id}/test'
	| 'GET /v1/webhooks/{id}/deliveries';

export interface Webhook {
	id: string;
	url: string;
	events: string[];
	enabled: boolean;
	disabled_reason?: string | null;
	failing_since?: string | null;
	created_at: string;
	secret?: string | null;
}
export interface Delivery {
	id: string;
	event_id?: number | null;
	type: string;
	status: 'pending' | 'delivered' | 'failed';
	attempts: number;
	next_attempt_at?: string | null;
	response_status?: number | null;
	error?: string | null;
	duration_ms?: number | null;
	created_at: string;
}
export interface ResetLink {
	user_id: string;
	email: string;
	url: string;
	expires_at: string;
}

export interface Allowance {
	used: number;
	limit?: number | null;
}
export interface Usage {
	days: {
		date: string;
		sandboxes: number;
		sandbox_seconds: number;
		vcpu_seconds: number;
		memory_mb_seconds: number;
		disk_mb_seconds: number;
	}[];
	quotas: { sandboxes: Allowance; vcpus: Allowance; memory_mb: Allowance; disk_mb: Allowance };
}
export interface Invitation {
	id: string;
	email: string;
	role: Role;
	created_at: string;
	expires_at: string;
	mailed?: boolean | null;
	url?: string | null;
}
export interface InvitationDetail {
	team_id: string;
	team_name: string;
	email: string;
	role: Role;
	expires_at: string;
	has_account: boolean;
}
export interface DeviceLoginDetail {
	user_code: string;
	client_name: string;
	address?: string | null;
	created_at: string;
	expires_at: string;
}

/** What of it is shown already: nothing that main can't do. */
export const LANDED: Record<'invitations' | 'keyScopes' | 'userLinks', boolean> = {
	invitations: false,
	keyScopes: false,
	userLinks: false
};
