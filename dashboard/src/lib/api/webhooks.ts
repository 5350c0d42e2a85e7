import { all, request } from './client';
import type { Delivery, Page, Webhook } from './types';

export const listWebhooks = (signal?: AbortSignal) => all<Webhook>('GET /v1/webhooks', { signal });
/** The answer alone holds the secret that deliveries are signed with. */
export const createWebhook = (spec: { url: string; events: string[] }, idempotencyKey: string) =>
	request<Webhook>('POST /v1/webhooks', { body: spec, idempotencyKey });
export const updateWebhook = (id: string, change: { url?: string; events?: string[]; enabled?: boolean }) =>
	request<Webhook>('PATCH /v1/webhooks/{id}', { path: { id }, body: change });
export const deleteWebhook = (id: string) => request<undefined>('DELETE /v1/webhooks/{id}', { path: { id } });
export const testWebhook = (id: string) => request<Delivery>('POST /v1/webhooks/{id}/test', { path: { id } });
export const listDeliveries = async (id: string, signal?: AbortSignal) =>
	(
		await request<Page<Delivery>>('GET /v1/webhooks/{id}/deliveries', {
			path: { id },
			query: { limit: 100 },
			signal
		})
	).items;
/** The answer alone holds the new secret. For a day both sign. */
export const newSecretOf = (id: string) =>
	request<Webhook>('POST /v1/webhooks/{id}/secret', { path: { id } });
