import { all } from './client';
import type { Template } from './types';

export const listTemplates = (signal?: AbortSignal) => all<Template>('GET /v1/templates', { signal });
