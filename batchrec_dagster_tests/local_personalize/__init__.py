"""Tests of the embedded Personalize through boto3, as any program drives Amazon Personalize."""
